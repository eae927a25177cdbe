"""The page of ``soak``."""

import math

import numpy as np

from ._rst import circumstances, table, title

_BATCHES = 20
MEASURES = {  # what is looked at -> heading, unit, size of a unit
    "resident": ("Resident memory", "MiB", 2**20),
    "allocated": ("Given out by malloc", "MiB", 2**20),
    "blocks": ("Small objects of Python", "thousands", 1000),
    "descriptors": ("Open descriptors", "", 1),
    "threads": ("Threads", "", 1),
}
TOLERATED = 0.02  # growth of the second half, as a share of the level


def growth(values):
    """Slope per step of the second half of ``values`` and its standard error.

    Neighbouring values resemble each other, so the line is put through the means of twenty batches, whose
    scatter about it gives the error.
    """
    half = np.asarray(values[len(values) // 2 :], dtype=float)
    size = len(half) // _BATCHES
    if size == 0:
        return math.nan, math.nan
    y = half[len(half) - size * _BATCHES :].reshape(_BATCHES, size).mean(axis=1)
    x = size * (np.arange(_BATCHES) - 0.5 * (_BATCHES - 1))
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(np.sqrt(rest @ rest / (_BATCHES - 2) / (x @ x)))


def verdict(values):
    """Whether the second half grows: beyond chance, and by more than a fiftieth of its level."""
    slope, error = growth(values)
    if math.isnan(slope):
        return "too few rounds"
    level = float(np.mean(values[len(values) // 2 :]))
    if slope <= 3.0 * error:
        return "no growth"
    return "grows" if slope * 0.5 * len(values) > TOLERATED * level else "no growth that counts"


def page(records, current, quick):
    """The report as reStructuredText, on the last run among the records."""
    runs = [r for r in records if r["kind"] == "soak"]
    parts = [
        ".. Written by python -m siflow_sk.benchmarks soak; changes made here are lost.\n",
        title("Hours of random use", "="),
    ]
    if quick:
        parts.append(".. warning::\n\n   Written with ``--quick``: the figures mean nothing.\n")
    elif not current:
        parts.append("Measured with an earlier state of the code.\n")
    if runs:
        rounds = [r for r in records if r["kind"] == "round" and r["run"] == runs[-1]["run"]]
        parts += _run(runs[-1], rounds) if rounds else []
    return "\n".join([*parts, circumstances(runs[-1:])])


def _run(run, rounds):
    failed = [r for r in rounds if "error" in r]
    minutes, cpu = rounds[-1]["minutes"], sum(r["seconds"] for r in rounds) / 60.0
    peak = max(r["peak"] for r in rounds) / 2**30
    names = ", ".join(sorted({r["estimator"] for r in rounds} - {""}))  # a failed round has none
    text = (
        "In one process an estimator after the other is made with settings drawn at "
        "random, fitted to a small random table, asked by up to three of its methods, saved and loaded; "
        "some are fitted with a checkpoint, pickled, asked by two threads at once, fitted once more, or "
        "offered a table that is not finite, which they must refuse.  Loaded, pickled and shared models must "
        "answer to the bit.  After each round the process is looked at.\n\n"
        f"Estimators: {names or 'none'}.\n\n"
        f"{len(rounds):,} rounds in {minutes:.0f} minutes, {cpu:.0f} of them computing (wanted: "
        f"{run['minutes']:g} minutes at {100 * run['load']:g} % of a core); seeds {rounds[0]['seed']} to "
        f"{rounds[-1]['seed']}.  Rounds that failed: {len(failed)}.  Largest resident memory: {peak:.2f} "
        f"GiB, under a ceiling of {run['ceiling']:g} GiB.\n"
    )
    parts = [text]
    if failed:
        shown = [(f"{r['seed']}", r["error"].replace("\n", " ")[:200]) for r in failed[:20]]
        note = (
            "By their seeds, with the code of that time, they are repeated: "
            "``python -m siflow_sk.benchmarks soak --seeds SEED --rounds 1``.\n"
        )
        parts += [title("Rounds that failed"), note, table(("Seed", "Error"), shown)]
    known = [name for name in MEASURES if rounds[0][name] is not None]
    note = (
        "Slope: of a straight line through the second half of the rounds, with its standard error (twenty "
        "batch means).  It counts as growth when it is more than three standard errors and amounts to more "
        f"than {100 * TOLERATED:g} % of the level over that half.  Levels are means of a twentieth of the "
        "rounds.\n"
    )
    header = (
        "",
        "At the start",
        "In the middle",
        "At the end",
        "Largest",
        "Slope per 1,000 rounds",
        "Verdict",
    )
    return [*parts, title("What it leaves behind"), note, table(header, [_row(n, rounds) for n in known])]


def _row(name, rounds):
    heading, unit, size = MEASURES[name]
    values = np.array([r[name] for r in rounds]) / size
    part = max(1, len(values) // 20)
    middle = len(values) // 2
    levels = [values[:part].mean(), values[middle : middle + part].mean(), values[-part:].mean()]
    slope, error = (1000.0 * v for v in growth(values))
    return (
        f"{heading}{', ' * bool(unit)}{unit}",
        *(f"{level:,.1f}" for level in levels),
        f"{values.max():,.1f}",
        f"{slope:.2f} ± {error:.2f}",
        verdict(values),
    )
