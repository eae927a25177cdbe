"""Seconds and memory of a call, on a busy machine too."""

import contextlib
import ctypes
import gc
import statistics
import sys
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits


def clock(device="cpu"):
    """A clock for work on ``device``: seconds of the processor, or of the wall where a GPU does the work.

    With one thread the processor's seconds are what the call would take on an idle machine; they do not grow
    when others compute beside it.  With several threads they would add up, and the wall counts.
    """
    if device != "cpu":
        return _synchronised
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def _synchronised():
    torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def threads(number):
    """``number`` threads for torch, BLAS and OpenMP inside; as before afterwards.

    Small matrices: two threads on a busy machine are many times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def seconds(function, device="cpu", now=None):
    """Seconds of one call, by the clock of the device or by ``now``."""
    now = now or clock(device)
    start = now()
    function()
    return max(now() - start, 1e-9)


def median_seconds(function, repeats=3, device="cpu", enough=2.0):
    """Median over ``repeats`` calls; of one call alone where that takes more than ``enough`` seconds."""
    first = seconds(function, device)
    if first > enough:
        return first
    return statistics.median([first, *(seconds(function, device) for _ in range(repeats - 1))])


def in_turn(functions, repeats, device="cpu", now=None):
    """Seconds of every function, called in turn ``repeats`` times, so that a disturbance hits all alike.

    Returns
    -------
    seconds : dict of list
        Name -> seconds of its calls; entries at one position were measured one after the other.
    """
    taken = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            taken[name].append(seconds(function, device, now))
    return taken


def ratio(taken, name, other):
    """Median of the ratios of one function's seconds to another's, call by call."""
    return statistics.median(a / b for a, b in zip(taken[name], taken[other], strict=True))


# -- memory ----------------------------------------------------------------------------------------------


def peak_bytes(function, device="cpu"):
    """How far memory rises above its level while ``function`` runs.

    On a GPU what torch allocates there; else the resident memory of the process, in which a block that was
    freed before and is used again does not show.
    """
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return_free_memory()
    forget_peak()
    before = resident()[0]
    function()
    return max(0, resident()[1] - before)


def resident():
    """Resident memory now and its peak, in bytes; without /proc the peak stands for both."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return tuple(1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


def return_free_memory():
    """What malloc holds in reserve would hide an equal part of the growth; glibc gives it back on request."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak():
    """Let the peak begin anew, where the system can; elsewhere only what exceeds the old peak is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
