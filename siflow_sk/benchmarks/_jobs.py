"""One result after the other, each stored as soon as it is there."""

import traceback
from collections.abc import Callable
from typing import NamedTuple

from ._records import Records, circumstances


class Job(NamedTuple):
    """One result: how it is found among the records, how it is measured, how it reads in one line."""

    key: dict  # with the entry "kind"
    measure: Callable  # () -> dict
    line: Callable  # record -> str


def measure_and_report(jobs, code, page, *, output, report, fresh, quick, report_only, command):
    """Measure what the records lack, then write the report, also after an error or an interrupt.

    Parameters
    ----------
    jobs : callable
        () -> sequence of Job; not called with ``report_only``.
    code : dict
        Kind of result -> the code that it rests on.
    page : callable
        (records, current, quick) -> the text of the report.
    output, report : Path
        The records, and the page; without ``report`` none is written.
    fresh, quick, report_only, command
        As :func:`._options.add_command` gives them to a subcommand.

    Returns
    -------
    status : int
        1 if anything failed, else 0.
    """
    records, failures = Records(output), 0
    try:
        if not report_only:
            failures = measure_missing(jobs(), records, code, quick=quick, fresh=fresh, command=command)
    finally:
        write_page(page(*records.to_show(code, quick), quick), report)
    return 1 if failures else 0


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
