"""The page of ``conditional``."""

import statistics

from ._regressors import ROUNDS, SAMPLES
from ._rst import circumstances, mean_and_error, not_measured, table, title, with_state

_NAMES = {
    "linear": "Bayesian ridge",
    "gp": "Gaussian process",
    "boosted": "Boosted quantiles",
    "ngboost": "NGBoost",
    "treeffuser": "treeffuser",
    "ours": "ConditionalInterpolantFlow",
}


def page(records, current, quick):
    """The report as reStructuredText.

    Parameters
    ----------
    records : list of dict
    current : bool
        Whether all of them are of the present code.
    quick : bool
    """
    shown = list({(r["kind"], r["table"], r["split"], r["seed"]): r for r in records}.values())
    tables = list(dict.fromkeys(r["table"] for r in shown))
    kinds = [kind for kind in _NAMES if any(r["kind"] == kind for r in shown)]

    def of(field, form):
        header = ("Table", *(_NAMES[kind] for kind in kinds))
        rows = []
        for name in tables:
            cells = [
                mean_and_error([r[field] for r in shown if (r["table"], r["kind"]) == (name, kind)], form)
                for kind in kinds
            ]
            rows.append((name, *cells))
        return table(header, rows)

    parts = [
        ".. Written by python -m siflow_sk.benchmarks conditional; changes made here are lost.\n",
        title("The density of a target given the other columns", "="),
        _remarks(current, quick),
    ]
    if shown:
        parts += [
            _rows(shown, tables, kinds),
            title("Test negative log-likelihood"),
            "Nats per row, units of y; lower is better.\n",
            of("mean", ".3f"),
            _verdict(shown, tables, kinds),
            title("Calibration"),
            "Largest distance between the distribution of the predicted probabilities of the test rows and "
            "the uniform one (Kolmogorov and Smirnov); lower is better.\n",
            of("pit_ks", ".3f"),
        ]
        for coverage in ("0.5", "0.8", "0.95"):
            parts += [
                f"Share of the test rows inside the central {float(coverage):.0%} interval:\n",
                of(f"coverage_{coverage}", ".1%"),
            ]
        parts += [
            title("Error of the mean"),
            "Root mean square, units of y; lower is better.\n",
            of("rmse", ".4g"),
            title("Seconds of a fit"),
            "Of the wall, on a machine with other work, where a fit that was made to wait counts in full: "
            "orders of magnitude, no more.\n",
            of("fit_seconds", ".1f"),
        ]
    found = {(r["table"], r["kind"]) for r in shown}
    parts += [
        not_measured({name: name for name in tables}, {kind: _NAMES[kind] for kind in kinds}, found),
        circumstances(shown),
    ]
    return "\n".join(part for part in parts if part)


def _remarks(current, quick):
    text = (
        "Random splits 90/10; mean over the splits, with its standard error where there are several.  Ours "
        "has default settings.  The baselines are scikit-learn's: Bayesian ridge regression; a Gaussian "
        "process with a squared-exponential kernel, a length for each column and noise, its kernel learnt "
        "from at most 1,000 rows and conditioned on at most 4,000; histogram gradient boosting of 25 "
        "quantiles, the density constant between them with exponential tails.\n\n"
        "NGBoost predicts a normal distribution, whose density is taken; at most "
        f"{ROUNDS:,} rounds, their number chosen on a tenth of the training rows. Treeffuser, with default "
        f"settings, draws samples; its density is a Gaussian kernel estimate of {SAMPLES} samples of each "
        "row, as in its ``compute_nll``, but with Scott's bandwidth times the standard deviation of these "
        "samples (there: 1 in units of y, unless another is given). Kernels widen a narrow density and end "
        "soon after the last sample: that log-density is of the estimate as much as of the model.\n\n"
        "On wine_white uniform noise of one unit's width was added to the rating, for every model. On "
        "protein the target is what the file holds, a logarithm of the RMSD: these figures do not compare "
        "with published ones in other units.\n"
    )
    return with_state(text, current, quick)


def _rows(shown, tables, kinds):
    rows = []
    for name in tables:
        records = [r for r in shown if r["table"] == name]
        first = records[0]
        splits = {kind: len({r["split"] for r in records if r["kind"] == kind}) for kind in kinds}
        most = max(splits.values())
        fewer = ", ".join(f"{_NAMES[kind]} {n}" for kind, n in splits.items() if 0 < n < most)
        rows.append(
            (
                name,
                f"{first['n_train']:,}",
                f"{first['n_test']:,}",
                f"{first['n_features']}",
                f"{most} ({fewer})" if fewer else f"{most}",
            )
        )
    return table(("Table", "Training rows", "Test rows", "Columns of X", "Splits"), rows)


def _verdict(shown, tables, kinds):
    """On how many tables each model has the lowest mean, of the models measured there."""
    wins = dict.fromkeys(kinds, 0)
    for name in tables:
        means = {
            kind: statistics.fmean(values)
            for kind in kinds
            if (values := [r["mean"] for r in shown if (r["table"], r["kind"]) == (name, kind)])
        }
        wins[min(means, key=means.get)] += 1
    told = ", ".join(f"{_NAMES[kind]} {count}" for kind, count in wins.items())
    return f"Lowest mean of the models measured there, on how many of the {len(tables)} tables: {told}.\n"
