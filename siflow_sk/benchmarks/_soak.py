"""``soak``: hours of random fits, scores, saves and loads in one process, under a memory ceiling."""

import contextlib
import ctypes
import functools
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from . import _soak_report
from ._jobs import say, write_page
from ._options import add_command
from ._records import Records, circumstances, code_of
from ._soak_rounds import ESTIMATORS, play
from ._timing import resident

_SUMMARY = "hours of random use: memory, descriptors, threads"
_DESCRIPTION = """\
Rounds in one process: an estimator with settings drawn at random is fitted, scored, sampled, saved and
loaded, pickled, shared by threads, refused. After every round resident memory, open descriptors and threads
are written to the records. A round is repeated by its seed: --seeds SEED --rounds 1."""

_QUICK_ROUNDS = 2 * len(ESTIMATORS)


def add_parser(commands):
    add = add_command(commands, "soak", run, summary=_SUMMARY, description=_DESCRIPTION).add_argument
    add("--minutes", type=float, default=120.0, help="wall clock (default: %(default)s)")
    add("--rounds", type=int, help="end after so many rounds")
    add("--load", type=float, default=1.0, help="share of a core that is used (default: %(default)s)")
    add("--ceiling", type=float, default=2.0, help="of resident memory, GiB (default: %(default)s)")


def run(
    *,
    data=None,
    output="benchmarks-soak.jsonl",
    report=None,
    seeds=(0,),
    minutes=120.0,
    rounds=None,
    load=1.0,
    ceiling=2.0,
    fresh=False,
    quick=False,
    report_only=False,
    command="",
):
    """Play rounds until the time is up, then write the report; the first seed is that of the first round.

    Returns
    -------
    status : int
        1 if a round failed or memory went beyond the ceiling, else 0.
    """
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    code = dict.fromkeys(("soak", "round"), f"{library}-{code_of('benchmarks/_soak*.py')}")
    start = {"kind": "soak", "code": code["soak"], "quick": quick, "run": time.time()}
    rounds = _QUICK_ROUNDS if quick and rounds is None else rounds
    failures = 0
    try:
        if not report_only:
            about = {"minutes": minutes, "load": load, "ceiling": ceiling, "seed": seeds[0]}
            Records(output).add(start | about | {"circumstances": circumstances() | {"command": command}})
            failures = _soak(
                {"kind": "round", "code": code["round"], "quick": quick, "run": start["run"]},
                Path(output),
                seeds[0],
                60.0 * minutes,
                rounds,
                load,
                ceiling * 2**30,
            )
    finally:
        write_page(_soak_report.page(*Records(output).to_show(code, quick), quick), report)
    return 1 if failures else 0


def _soak(key, output, seed, seconds, rounds, load, ceiling):
    """Play; every round's record goes to disk and is not kept, lest the records be what grows."""
    failures, played, began = 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        while played != rounds and time.perf_counter() - began < seconds:
            wall, cpu = time.perf_counter(), time.process_time()
            record = key | {"seed": seed + played} | _play(seed + played, Path(folder))
            cpu = time.process_time() - cpu
            failures += "error" in record
            played += 1
            record |= {"minutes": (time.perf_counter() - began) / 60.0, "seconds": cpu} | state()
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if played % 100 == 0:
                say(f"{played} rounds in {record['minutes']:.1f} min: {record['resident'] / 2**20:.1f} MiB")
            if record["peak"] > ceiling:
                say(f"seed {record['seed']}: {record['peak'] / 2**30:.2f} GiB, beyond the ceiling")
                return failures + 1
            time.sleep(max(0.0, cpu / load - (time.perf_counter() - wall)))
    return failures


def _play(seed, folder):
    try:
        return {"estimator": play(seed, folder)}
    except Exception as error:  # a soak goes on
        traceback.print_exc()
        say(f"FAILED: python -m siflow_sk.benchmarks soak --seeds {seed} --rounds 1")
        return {"estimator": "", "error": f"{type(error).__name__}: {error}"}


# -- the state of the process ------------------------------------------------------------------------------


def state():
    """Memory in bytes, descriptors and threads of this process.

    ``resident`` is what it occupies, ``peak`` the most it did; ``allocated`` what malloc has given out, so
    that what is in use can be told from what malloc only keeps; ``blocks`` how many small objects Python
    holds.  Where the system does not tell, None.
    """
    now, peak = resident()
    return {
        "resident": now,
        "peak": peak,
        "allocated": _allocated(),
        "blocks": sys.getallocatedblocks(),
        "descriptors": _entries("/proc/self/fd"),
        "threads": _entries("/proc/self/task") or threading.active_count(),
    }


def _entries(folder):
    with contextlib.suppress(OSError):
        return len(os.listdir(folder))


class _MallInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


@functools.cache  # every CDLL leaves a cycle behind
def _mallinfo():
    with contextlib.suppress(OSError, AttributeError):
        tell = ctypes.CDLL(None).mallinfo2
        tell.restype = _MallInfo
        return tell


def _allocated():
    if tell := _mallinfo():
        told = tell()
        return told.uordblks + told.hblkhd
