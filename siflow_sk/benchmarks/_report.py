"""From the records to one page of the documentation."""

import math

from ._peers import PEERS
from ._published import PUBLISHED, SOURCE, best_published
from ._rst import circumstances, table, title
from ._tables import NOT_COUNTED, TABLES, TRAIN_ALONE
from ._verdicts import cheap_peer, mebibytes, middle, verdicts


def page(results):
    """The report as reStructuredText."""
    parts = [
        ".. Written by python -m siflow_sk.benchmarks core; changes made here are lost.\n",
        title("Core figures", "="),
        _remarks(results),
        title("What is demanded, and what was found"),
        table(("Demand", "Figure", "Verdict"), [tuple(v) for v in verdicts(results)], (50, 38, 12)),
        _tables_section(results),
        _divergence_section(results),
        _memory_section(results),
        _scoring_section(results),
        circumstances(results.everything()),
    ]
    return "\n".join(part for part in parts if part)


def _remarks(results):
    text = (
        "Measured by ``python -m siflow_sk.benchmarks core``.  Where there are several runs their median is "
        "shown; ratios are taken within one run.\n"
    )
    if results.quick:
        text = (
            ".. warning::\n\n   Written with ``--quick``: tiny training budgets and a few hundred rows. "
            "The command works; the figures mean nothing.\n\n" + text
        )
    elif not results.current:
        text += "\nSome of these results were measured with an earlier state of the code.\n"
    return text


def _tables_section(results):
    measured = [name for name in TABLES if name in results.flows]
    if not measured:
        return ""
    counted = [name for name in measured if name not in NOT_COUNTED]
    apart = [name for name in measured if name in NOT_COUNTED]
    parts = [
        title("Log-densities on the open tables"),
        "Mean negative log-likelihood of all test rows, nats per row, and its standard error; lower is "
        "better.  Every model gets the same prepared table: columns with at most 20 distinct values and "
        "repeated columns dropped, lattice columns spread over their cells, columns standardised by the "
        "training rows.  Our estimator runs with its default settings on training and validation rows "
        "together and keeps a tenth of them for its own choices (it gets the training rows alone on "
        f"{', '.join(TRAIN_ALONE)}); the peers train on the training rows and choose on the validation "
        "rows.  ``kde`` and ``gmm`` were run beside ours on one thread, with an exact sum over the kernels "
        f"and full covariances; the best published peer is that of an earlier run, ``{SOURCE}``.  Better "
        "than kde and gmm means: than the better figure of each, run here or published.\n",
        _comparison(results, counted),
        *(_apart(results, name) for name in apart),
        title("Our fits in detail", "~"),
        "Test: median row, and mean without the outer 5 % at each end.  Validation: the best mean on the "
        "rows that the estimator kept aside, after the quadratic stage alone and after the polish by "
        "likelihood.  Error: the largest estimate of a test row's numerical error, in nats.\n",
        _details(results, measured),
        title("Peers", "~"),
        "Run here:\n",
        _peers_here(results, measured),
        f"Published, in ``{SOURCE}``: seed 0, one thread of a busy 2-core CPU, untuned; a dagger marks a "
        "fit that a cap on time ended, a floor of what the peer can do.\n",
        table(
            ("Table", *next(iter(PUBLISHED.values()))),
            [(name, *PUBLISHED[name].values()) for name in TABLES],
        ),
    ]
    return "\n".join(parts)


def _value(records, field="mean", digits=2):
    value = middle(records, field) if records else None
    return "not run" if value is None else f"{value:.{digits}f}"


def _with_error(records):
    if not records:
        return "not run"
    if not math.isfinite(middle(records, "mean")):
        bad = max(r["n_not_finite"] for r in records)
        return f"infinite ({bad} of {records[0]['n_test']} rows)"
    return f"{_value(records)} ± {_value(records, 'standard_error')}"


def _comparison(results, names):
    rows = []
    for name in names:
        flows = results.flows[name]
        model, best = best_published(name)
        ours = middle(flows, "mean")
        rows.append(
            (
                name,
                f"{flows[0]['n_train']:,} x {flows[0]['n_features']}",
                f"**{_with_error(flows)}**",
                _with_error(results.peers.get((name, "kde"))),
                _with_error(results.peers.get((name, "gmm"))),
                f"{best:.2f} ({model})",
                "yes" if ours < cheap_peer(results, name)[1] else "no",
                "yes" if ours < best else "no",
            )
        )
    header = (
        "Table",
        "Training rows x columns",
        "InterpolantFlow",
        "kde",
        "gmm",
        "Best published",
        "Better than kde and gmm",
        "Better than the best",
    )
    return table(header, rows) if rows else ""


def _apart(results, name):
    model, best = best_published(name)
    return (
        f"Apart, and not counted: on {name} a few validation rows lie beyond 15 sigma and drive every choice "
        f"made there.  InterpolantFlow {_with_error(results.flows[name])}, "
        f"kde {_with_error(results.peers.get((name, 'kde')))}, "
        f"gmm {_with_error(results.peers.get((name, 'gmm')))}, best published {best:.2f} ({model}).\n"
    )


def _details(results, names):
    rows = []
    for name in names:
        flows = results.flows[name]
        means = [r["mean"] for r in flows]
        rows.append(
            (
                name,
                f"{len(flows)}" + (f" ({min(means):.2f} to {max(means):.2f})" if len(flows) > 1 else ""),
                _value(flows, "median"),
                _value(flows, "trimmed"),
                _value(flows, "quadratic_validation"),
                _value(flows, "polished_validation"),
                _value(flows, "fit_seconds", 1),
                _value(flows, "n_steps", 0),
                f"{middle(flows, 'largest_error'):.1e}",
            )
        )
    header = (
        "Table",
        "Seeds",
        "Test, median",
        "Test, trimmed",
        "Validation, quadratic stage",
        "Validation, polished",
        "Fit, s",
        "Steps",
        "Error",
    )
    return table(header, rows)


def _peers_here(results, names):
    rows = []
    for name in names:
        cells = []
        for model in PEERS:
            records = results.peers.get((name, model), [])
            cells.append(_with_error(records) + _chosen(records))
        rows.append((name, *cells))
    return table(("Table", *PEERS), rows)


def _chosen(records):
    """What the first run chose, and a dagger where its search was cut short."""
    if not records:
        return ""
    chosen = records[0]["chosen"]
    text = {
        "ridge": lambda v: f"ridge {v:g}",
        "bandwidth": lambda v: f"bandwidth {v:.3g}",
        "n_components": lambda v: f"{v} components",
        "reg_covar": lambda v: f"ridge {v:g}",
    }
    dagger = "†" if chosen.get("capped") else ""
    return f"{dagger} ({', '.join(show(chosen[key]) for key, show in text.items() if key in chosen)})"


def _divergence_section(results):
    if not results.divergence:
        return ""
    first = next(iter(results.divergence.values()))
    rows = [
        (
            f"{d}",
            dtype,
            f"{r['forward_ms']:.2f}",
            f"{r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f})",
            f"{r['trace_ratio']:.1f}",
            f"{r['trace_ratio'] / r['ratio']:.1f}",
            f"{r['largest_difference']:.1e}",
        )
        for (d, dtype), r in sorted(results.divergence.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    header = (
        "d",
        "Precision",
        "Forward pass, ms",
        "v and div v",
        "v and autograd trace",
        "Trace / closed form",
        "Largest difference",
    )
    return "\n".join(
        (
            title("Cost of an exact divergence"),
            f"The default network, width {first['width']}, {first['n_rows']:,} rows, CPU; costs in forward "
            f"passes of the same network, medians of {first['repeats']} ratios (smallest to largest).  The "
            "autograd trace takes d reverse passes.  The last column compares the two divergences.\n",
            table(header, rows),
        )
    )


def _memory_section(results):
    if not results.memory:
        return ""
    rows = [
        (
            f"{n:,}",
            mebibytes(r["input_bytes"]),
            mebibytes(r["answer_bytes"]),
            mebibytes(r["peak_bytes"]),
            f"{r['seconds']:.1f}",
        )
        for n, r in sorted(results.memory.items())
    ]
    return "\n".join(
        (
            title("Memory of scoring"),
            "Growth of the process's peak resident memory during ``score_samples``, beyond the table "
            "(6 columns, float64) and the answer; a small network, each number of rows in a process of "
            "its own, in which freed memory is returned to the system at once.\n",
            table(("Rows", "Input", "Answer", "Beyond both", "Seconds"), rows),
        )
    )


def _scoring_section(results):
    names = sorted(results.flows, key=lambda name: results.flows[name][0]["n_features"])
    if not names:
        return ""
    rows = [
        (
            f"{results.flows[name][0]['n_features']}",
            name,
            _value(results.flows[name], "score_seconds"),
            _value(results.flows[name], "n_steps", 0),
        )
        for name in names
    ]
    return "\n".join(
        (
            title("Scoring time"),
            "Seconds for the exact log-densities of 1,000 test rows by the fitted default estimator, in "
            "float64; median of three.\n",
            table(("d", "Table", "Seconds", "Steps of the time grid"), rows),
        )
    )
