"""The page of ``uci``, with the published figures."""

import math
import statistics

from ._rst import circumstances, table, title, with_state
from ._uci_sets import ORIGINAL, SETS, STAND_INS

# as the papers of these models report them; R: read in an open source, M: quoted from memory, M+: from
# memory, partly corroborated
_FIGURES = """
MADE | 3.08 | -3.56 | 20.98 | 15.59 | -148.85 | R
Real NVP | -0.17 | -8.33 | 18.71 | 13.55 | -153.28 | R
Glow | -0.17 | -8.15 | 18.92 | 11.35 | -155.07 | R
CPF | -0.52 | -10.36 | 16.93 | 10.58 | -154.99 | M
NSP (RQ-NSF(C)) | -0.64 | -13.09 | 14.75 | 9.67 | -157.54 | R
FFJORD | -0.46 | -8.59 | 14.92 | 10.43 | -157.40 | R
OT-Flow | -0.30 | -9.20 | 17.32 | 10.55 | -154.20 | M
InterFlow (the paper) | -0.57 | -12.35 | 14.85 | 10.42 | -156.22 | M+
MAF (best of three) | -0.30 | -10.08 | 17.39 | 11.68 | -156.36 | R
MADE MoG | -0.40 | -8.47 | 15.15 | 12.27 | -153.71 | R
MAF (run again for NSF) | -0.45 | -12.35 | 17.03 | 10.92 | -156.95 | R
Glow (run again for NSF) | -0.42 | -12.24 | 16.99 | 10.55 | -156.95 | R
TAN | -0.60 | -12.06 | 13.78 | 11.01 | -159.80 | R
NAF DDSF(5) | -0.62 | -11.91 | 15.09 | 8.86 | -157.73 | R
BNAF | -0.61 | -12.06 | 14.71 | 8.95 | -157.36 | R
SOS | -0.60 | -11.99 | 15.15 | 8.90 | -157.48 | R
Q-NSF(C) | -0.64 | -12.80 | 15.35 | 9.35 | -157.65 | R
Q-NSF(AR) | -0.66 | -12.91 | 14.67 | 9.72 | -157.42 | R
RQ-NSF(AR) | -0.66 | -13.09 | 14.01 | 9.22 | -157.31 | R
UMNN-MAF | -0.63 | -10.89 | 13.99 | 9.67 | -157.98 | M
AEM | -0.70 | -13.03 | 12.85 | 10.17 | -158.71 | M
TraDE | -0.73 | -13.27 | 12.01 | 9.49 | -160.01 | M
nMDMA | -1.78 (suspicious: near-discrete values) | -8.43 | 18.00 | 18.60 | - | M
JKO-iFlow | -0.40 | -9.43 | - | 10.55 | -157.75 | M
Local Flow Matching | -0.67 | -12.43 | - | 9.95 | -157.80 | M
"""
PUBLISHED = [tuple(cell.strip() for cell in line.split("|")) for line in _FIGURES.strip().split("\n")]
_TAGS = {"R": "read", "M": "memory", "M+": "memory, partly corroborated"}
_MODELS = {"ours": "InterpolantFlow", "paper": "Paper's configuration", "gaussian": "Gaussian"}


def page(records, current, quick):
    """The report as reStructuredText.

    Parameters
    ----------
    records : list of dict
    current : bool
        Whether all of them are of the present code.
    quick : bool
    """
    shown = _last(records)
    parts = [
        ".. Written by python -m siflow_sk.benchmarks uci; changes made here are lost.\n",
        title("The five sets of the literature", "="),
        _remarks(current, quick),
        table(("Model", *(name.upper() for name in SETS), "Source"), [*_ours(shown), *_published()]),
        _cautions(shown),
        _details(shown),
        circumstances(shown),
    ]
    return "\n".join(part for part in parts if part)


def _last(records):
    """Of each model, set and seed the last record."""
    return list({(r["kind"], r["table"], r["seed"]): r for r in records}.values())


def _remarks(current, quick):
    text = (
        "Mean negative log-likelihood of the test rows, nats per row; lower is better.  Figures in bold "
        "were run here and come with their standard error over the test rows (medians over the seeds); a "
        "star marks data that are not those of the published figures, see below the table.  The others are"
        " those of the models' own papers; *read* means that they were looked up, *memory* that they were "
        "not: check those before relying on them.  On MINIBOONE, with 3,648 test rows, differences below "
        "half a nat mean nothing.\n"
    )
    return with_state(text, current, quick)


def _middle(records, field):
    return statistics.median(r[field] for r in records)


def _cell(records):
    if not records:
        return "-"
    star = "" if records[0]["data"] == ORIGINAL else " \\*"
    mean = _middle(records, "mean")
    if not math.isfinite(mean):
        return f"infinite ({max(r['n_not_finite'] for r in records)} rows){star}"
    return f"**{mean:.2f} ± {_middle(records, 'standard_error'):.2f}**{star}"


def _ours(shown):
    for kind, name in _MODELS.items():
        cells = [_cell([r for r in shown if r["kind"] == kind and r["table"] == s]) for s in SETS]
        if any(cell != "-" for cell in cells):
            yield name, *cells, "run here"


def _published():
    for *cells, tag in PUBLISHED:
        yield *cells, _TAGS[tag]


def _cautions(shown):
    used = {r["table"] for r in shown if r["data"] != ORIGINAL}
    lines = [f"* {s.upper()}: {STAND_INS[s].name}, {STAND_INS[s].caution}" for s in SETS if s in used]
    missing = [name.upper() for name in SETS if not any(r["table"] == name for r in shown)]
    if missing:
        lines.append(f"* Not on this machine, so not measured: {', '.join(missing)}")
    return "\\* What the data are:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _details(shown):
    if not shown:
        return ""
    rows = [
        (
            r["table"].upper(),
            r["kind"],
            f"{r['seed']}",
            f"{r['n_train']:,}",
            f"{r['n_test']:,}",
            f"{r['median']:.2f}",
            f"{r['trimmed']:.2f}",
            f"{r['fit_seconds']:.0f}",
            _effort(r),
        )
        for r in sorted(shown, key=lambda r: (SETS.index(r["table"]), r["kind"], r["seed"]))
    ]
    header = ("Set", "Model", "Seed", "Training rows", "Test rows", "Median", "Trimmed", "Fit, s", "Steps")
    text = (
        "Median row, and mean without the outer 5 % at each end.  Our estimator sees the training rows "
        "alone, and of these keeps up to 2,048 for validation.  The paper's configuration (Adam, a ReLU or"
        " ELU network of (t, x), times from a Beta distribution) is quoted from memory; what is not known "
        "is filled in: a time for each pair of points, the weights with the best quadratic loss on the "
        "validation rows, scoring by Dormand-Prince steps at 1e-5.\n"
    )
    return "\n".join((title("In detail"), text, table(header, rows)))


def _effort(record):
    if record["kind"] == "paper":
        done = f"{record['n_iter']:,} of {record['steps']:,}"
        return f"{done} ({record['pairing']} pairs), best {record['best_iteration']:,}"
    return f"{record['n_iter']:,}" if "n_iter" in record else "-"
