"""Peak memory of scoring, in a process of its own: ``python -m siflow_sk.benchmarks._memory N_ROWS``."""

import contextlib
import ctypes
import gc
import json
import sys
import time
from pathlib import Path

import numpy as np

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP

_N_FEATURES = 6


def _resident():
    """Resident memory now and its peak, in bytes; without /proc the peak stands for both."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return tuple(1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak


def _return_free_memory():
    """What malloc holds in reserve would hide an equal part of the growth; glibc gives it back on request."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak():
    """Let the peak begin anew, where the system can; elsewhere only what exceeds the old peak is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def scoring_growth(n_rows):
    """How far resident memory rises above its level while ``n_rows`` rows are scored.

    Returns
    -------
    result : dict
        ``peak_bytes`` without ``answer_bytes``, the returned array; the table was there before.
    """
    rng = np.random.default_rng(0)
    flow = InterpolantFlow(max_iter=20, polish=10, velocity=MLP(width=32), random_state=0)
    flow.fit(rng.standard_normal((400, _N_FEATURES)))
    X = rng.standard_normal((n_rows, _N_FEATURES))
    flow.score_samples(X[:1000])  # what is loaded at first use does not belong to the rows
    gc.collect()
    _return_free_memory()
    _forget_peak()
    before = _resident()[0]
    start = time.perf_counter()
    answer = flow.score_samples(X)
    seconds = time.perf_counter() - start
    growth = max(0, _resident()[1] - before - answer.nbytes)
    return {"peak_bytes": growth, "answer_bytes": answer.nbytes, "input_bytes": X.nbytes, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(scoring_growth(int(sys.argv[1]))))
