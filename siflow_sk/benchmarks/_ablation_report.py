"""The page of ``ablation``: paired differences of a lever and the default."""

import math
import statistics
from typing import NamedTuple

import numpy as np

from ._rst import circumstances, distinct, not_measured, table, title, with_state
from ._scores import paired, unpack
from ._tables import NOT_COUNTED

ENSEMBLE = "ensemble of two"


class Effect(NamedTuple):
    """A difference of test log-densities, nats per row; positive where the lever is better."""

    mean: float
    error: float

    def __str__(self):
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def effects(records):
    """What was measured beside the default: lever -> place (table, limit) -> :class:`Effect`.

    The error of a place is the larger of two: that of the mean over the test rows, and that over the splits
    and seeds where there are at least two.
    """
    runs = {}
    for r in records:
        runs.setdefault((r["table"], r["limit"], r["split"], r["seed"]), {})[r["lever"]] = r
    differences = {}
    for (name, limit, *_), found in runs.items():
        if "default" not in found:
            continue
        values = {lever: unpack(r["log_density"]) for lever, r in found.items()}
        default = values.pop("default")
        if "other seed" in values:
            values[ENSEMBLE] = np.logaddexp(default, values["other seed"]) - math.log(2.0)
        for lever, value in values.items():
            place = differences.setdefault(lever, {}).setdefault((name, limit), [])
            place.append(paired(value, default))
    return {
        lever: {place: _pooled(pairs) for place, pairs in places.items()}
        for lever, places in differences.items()
    }


def _pooled(pairs):
    means, errors = zip(*pairs, strict=True)
    error = math.sqrt(sum(e * e for e in errors)) / len(errors)
    if len(means) > 1 and all(map(math.isfinite, means)):
        error = max(error, statistics.stdev(means) / math.sqrt(len(means)))
    return Effect(statistics.fmean(means), error)


def counted(found):
    """What :func:`effects` found on tables that count, as in the league; of a lever with none, all of it."""
    return {
        lever: {place: e for place, e in places.items() if place[0] not in NOT_COUNTED} or places
        for lever, places in found.items()
    }


def overall(places):
    """Mean over the places, each counted once, with its standard error over them."""
    means = [effect.mean for effect in places.values()]
    if len(means) < 2 or not all(map(math.isfinite, means)):
        return Effect(statistics.fmean(means), math.nan)
    return Effect(statistics.fmean(means), statistics.stdev(means) / math.sqrt(len(means)))


def verdict(places):
    """In a word: helps, hurts, or open.

    Helps: the mean over the places is beyond two standard errors above zero and no place is worse by more
    than its own error.  Hurts: the mean is beyond two standard errors below zero.
    """
    total = overall(places)
    if total.mean > 2.0 * total.error and all(e.mean >= -e.error for e in places.values()):
        return "helps"
    return "hurts" if total.mean < -2.0 * total.error else "open"


def lines(records):
    """What is printed at the end."""
    return [
        f"{lever}: {overall(places)} nats over {len(places)} tables: {verdict(places)}"
        for lever, places in counted(effects(records)).items()
    ]


def page(records, current, quick, tables=(), levers=()):
    """The report as reStructuredText; ``tables`` and ``levers`` are all that the command knows."""
    found = effects(records)
    parts = [
        ".. Written by python -m siflow_sk.benchmarks ablation; changes made here are lost.\n",
        title("What each default is worth", "="),
        _remarks(current, quick),
    ]
    if found:
        parts += [_summary(counted(found), records), title("Table by table"), _by_table(found, records)]
        parts.append(_absent(records, tables, levers))
    parts.append(circumstances(records))
    return "\n".join(part for part in parts if part)


def _absent(records, tables, levers):
    own = {name: f"``{name}``" for name in tables}, {name: f"*{name}*" for name in levers}
    return not_measured(*own, {(r["table"], r["lever"]) for r in records})


def _remarks(current, quick):
    text = (
        "One thing at a time is changed in the default estimator; both are fitted to the same rows and "
        "compared on the same test rows of resampled splits.  Differences are of the mean test log-density, "
        "nats per row, positive where the change is better.  The error of a table is that over its test rows "
        "or that over its splits, whichever is larger; that of the mean is over the tables.  A change "
        "*helps* if its mean is more than two standard errors above zero and no table is worse by more than "
        "its error; it *hurts* if the mean is more than two standard errors below zero.  Of many changes "
        "on few tables some look good by chance; *other seed*, which changes nothing, shows how much.  "
        f"{' and '.join(NOT_COUNTED)} stands apart, as in the league, and counts in no mean.\n\n"
        f"*{ENSEMBLE}*: the average of the densities of the default and of *other seed*.\n"
    )
    return with_state(text, current, quick)


def _summary(found, records):
    rows = []
    for lever, places in found.items():
        parameters = next((r["parameters"] for r in records if r["lever"] == lever), {})
        shown = ", ".join(f"``{k}={v!r}``" for k, v in parameters.items()) or "-"
        better = sum(e.mean > 2.0 * e.error for e in places.values())
        worse = sum(e.mean < -2.0 * e.error for e in places.values())
        counts = f"{better} / {worse} / {len(places)}"
        rows.append((lever, shown, str(overall(places)), counts, _time(lever, records), verdict(places)))
    header = ("Change", "Parameters", "Difference", "Better / worse beyond 2 errors / tables")
    return table((*header, "Time of a fit", "Verdict"), rows)


def _time(lever, records):
    """Median ratio to the default's."""
    seconds = {(r["lever"], *_run(r)): r["fit_seconds"] for r in records}
    ratios = [s / seconds["default", *key] for (name, *key), s in seconds.items() if name == lever]
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def _run(r):
    return r["table"], r["limit"], r["split"], r["seed"]


def _by_table(found, records):
    levers = list(found)
    rows = []
    for name, limit in distinct((r["table"], r["limit"]) for r in records):
        here = [r for r in records if (r["table"], r["limit"]) == (name, limit)]
        runs = {(r["split"], r["seed"]) for r in here}
        cells = [str(found[lever].get((name, limit), "-")) for lever in levers]
        rows.append((name, f"{here[0]['n_fit']:,} x {here[0]['n_features']}", f"{len(runs)}", *cells))
    return table(("Table", "Rows to fit", "Fits", *levers), rows)
