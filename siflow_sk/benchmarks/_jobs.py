"""One result after the other, each stored as soon as it is there."""

import traceback
from collections.abc import Callable
from typing import NamedTuple

from ._records import circumstances


class Job(NamedTuple):
    """One result: how it is found among the records, how it is measured, how it reads in one line."""

    key: dict  # with the entry "kind"
    measure: Callable  # () -> dict
    line: Callable  # record -> str


def measure_missing(jobs, records, code, *, quick, fresh, command):
    """Measure what the records lack; a result that fails does not stop the others.

    Parameters
    ----------
    jobs : sequence of Job
    records : Records
    code : dict
        Kind of result -> the code that it rests on: a record of other code does not count as stored.

    Returns
    -------
    failures : int
    """
    failures = 0
    for number, job in enumerate(jobs, 1):
        key = job.key | {"code": code[job.key["kind"]], "quick": quick}
        label = f"[{number}/{len(jobs)}]"
        found = None if fresh else records.find(key)
        if found is not None:
            say(f"{label} {job.line(found)} (stored)")
        else:
            failures += not _measure(job, key, records, label, command)
    return failures


def _measure(job, key, records, label, command):
    try:
        around = circumstances()
        record = key | job.measure() | {"circumstances": around | {"command": command}}
    except Exception as error:  # one table must not cost the others
        traceback.print_exc()
        say(f"{label} {' '.join(str(v) for v in job.key.values())}: FAILED, {type(error).__name__}: {error}")
        return False
    records.add(record)
    say(f"{label} {job.line(record)}")
    return True


def write_page(text, report):
    """Write a report, unless ``report`` is None."""
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
        say(f"report: {report.name}")


def say(text):
    """Print now, also into a pipe."""
    print(text, flush=True)
