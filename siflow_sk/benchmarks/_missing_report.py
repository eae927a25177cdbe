"""The page of ``missing``."""

from ._rst import circumstances, mean_and_error, table, title

_NAMES = {"knn": "KNNImputer", "iterative": "IterativeImputer", "ours": "InterpolantImputer"}

_TEXT = """\
A fifth of the values was removed completely at random from the rows that were fitted and from the test rows,
the same for every model. The tables are prepared as in the league: lattices spread over their cells, columns
standardised, so errors are in standard deviations of a column.

All models have default settings, but for what is said below. Draws of ``IterativeImputer`` are taken with
``sample_posterior=True``. ``KNNImputer`` gives one value, whose absolute error stands for the score of draws.
Neither has a density: that of a Gaussian, fitted to the training rows as they fill them, takes its place.
"""


def page(records, current, quick):
    """The report as reStructuredText.

    Parameters
    ----------
    records : list of dict
    current : bool
        Whether all of them are of the present code.
    quick : bool
    """
    shown = list({(r["kind"], r["table"], r["seed"], r["rows"]): r for r in records}.values())
    tables = list(dict.fromkeys(r["table"] for r in shown))
    kinds = [kind for kind in _NAMES if any(r["kind"] == kind for r in shown)]

    def of(field, form):
        def cell(name, kind):
            found = [r[field] for r in shown if (r["table"], r["kind"]) == (name, kind)]
            return mean_and_error(found, form)

        rows = [(name, *(cell(name, kind) for kind in kinds)) for name in tables]
        return table(("Table", *(_NAMES[kind] for kind in kinds)), rows)

    parts = [
        ".. Written by python -m siflow_sk.benchmarks missing; changes made here are lost.\n",
        title("Rows with missing values", "="),
        _TEXT,
    ]
    settings = {", ".join(f"{k}={v!r}" for k, v in r.get("flow", {}).items()) for r in shown} - {""}
    if settings:
        told = "; ".join(f"``{text}``" for text in sorted(settings))
        parts.append(f"Parameters of the flow that were not the default, for a shorter run: {told}.\n")
    if quick:
        parts.append(".. warning::\n\n   Written with ``--quick``: the figures mean nothing.\n")
    elif not current:
        parts.append("Some of these results were measured with an earlier state of the code.\n")
    if shown:
        parts += [
            _rows(shown, tables),
            title("Negative log-likelihood of what is left of the test rows"),
            "Nats per row; lower is better.\n",
            of("mean", ".3f"),
            _errors(shown, tables),
            title("Error of the mean of what was removed"),
            "Root mean square; lower is better.\n",
            of("rmse", ".3f"),
            title("Draws of what was removed"),
            "Continuous ranked probability score of 20 draws; lower is better.\n",
            of("crps", ".3f"),
            title("Seconds of a fit"),
            of("fit_seconds", ".1f"),
        ]
    parts.append(circumstances(shown))
    return "\n".join(parts)


def _rows(shown, tables):
    rows = []
    for name in tables:
        first = next(r for r in shown if r["table"] == name)
        rows.append((name, *(f"{first[key]:,}" for key in ("n_train", "n_complete", "n_test", "n_features"))))
    return table(("Table", "Training rows", "of them complete", "Test rows", "Columns"), rows)


def _errors(shown, tables):
    """What the finite number of candidates does to our log-densities."""
    ours = [r for r in shown if r["kind"] == "ours"]
    told = ", ".join(
        f"{name} {max(r['error'] for r in ours if r['table'] == name):.3f}"
        for name in tables
        if any(r["table"] == name for r in ours)
    )
    return f"Mean standard error of a row's log-density by InterpolantImputer: {told}.\n" if told else ""
