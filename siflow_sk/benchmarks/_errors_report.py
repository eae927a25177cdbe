"""The page of ``errors``."""

from ._rst import circumstances, table, title

WANTED = 0.99


def page(records, current, quick):
    """The report as reStructuredText.

    Parameters
    ----------
    records : list of dict
    current : bool
        Whether all of them are of the present code.
    quick : bool
    """
    shown = list({(r["table"], r["variant"], r["seed"]): r for r in records}.values())
    parts = [
        ".. Written by python -m siflow_sk.benchmarks errors; changes made here are lost.\n",
        title("How far the estimated errors can be trusted", "="),
        _remarks(shown, current, quick),
        *(_part(shown, variant) for variant in dict.fromkeys(r["variant"] for r in shown)),
        circumstances(shown),
    ]
    return "\n".join(parts)


def _remarks(shown, current, quick):
    text = (
        "``score_samples(X, return_error=True)`` estimates the numerical error of every log-density.  Here "
        "each estimate is held against the distance to the same flow solved with adaptive steps of its own "
        "for every row, at a tolerance of 1e-10: on held-out rows of the tables below, and, because errors "
        "are largest where a model has seen nothing, on the same rows moved to three times their distance "
        "from the mean.  A row is bounded if the true error is at most the estimate, the estimated error of "
        "the reference allowed for.  The fits are short: what is measured is the solver, not the model.\n"
    )
    if quick:
        text = (
            ".. warning::\n\n   Written with ``--quick``: the command works; the figures mean nothing.\n\n"
            + text
        )
    elif not current:
        text += "\nSome of these results were measured with an earlier state of the code.\n"
    if shown:
        below = [f"{r['table']} ({r['variant']})" for r in shown if r["held_out"]["coverage"] < WANTED]
        kept = f"{len(shown) - len(below)} of {len(shown)}"
        text += f"\nWanted: {100 * WANTED:.0f} % of the held-out rows of every table.  Reached in {kept}"
        text += f"; not in {', '.join(below)}.\n" if below else ".\n"
    return text


def _part(shown, variant):
    rows = [_row(r) for r in shown if r["variant"] == variant]
    header = (
        "Table",
        "Rows",
        "Columns",
        "Bounded, held-out",
        "Bounded, stretched",
        "Median error",
        "Median estimate",
        "Largest error",
        "Largest ratio, held-out",
        "Largest ratio, stretched",
        "Not solved",
    )
    return "\n".join((title(f"Solver: {variant}"), _NOTE, table(header, rows)))


_NOTE = (
    "Errors and estimates in nats, of held-out rows; the ratio is the true over the estimated error, and at "
    "most 1 for a row that is bounded.  Not solved: rows that are NaN and whose reference is not.\n"
)


def _row(record):
    held, far = record["held_out"], record["stretched"]
    return (
        record["table"],
        f"{held['n_rows']:,}",
        f"{record['n_features']}",
        f"{100 * held['coverage']:.1f} %",
        f"{100 * far['coverage']:.1f} %",
        f"{held['median_error']:.1e}",
        f"{held['median_estimate']:.1e}",
        f"{held['largest_error']:.1e}",
        f"{held['largest_ratio']:.2f}",
        f"{far['largest_ratio']:.2f}",
        f"{held['n_unsolved'] + far['n_unsolved']}",
    )
