"""From the records of ``speed`` to exponents, verdicts and one page."""

import statistics
from typing import NamedTuple

import numpy as np

from ._rst import circumstances, table, title, with_state
from ._verdicts import Verdict, mebibytes

# the demands
TIMES_FLOW_MATCHING = 50.0
TIMES_CNF = 10.0
TIMES_ONE_FIT = 4.0  # 15 fits on CUDA
MIN_COLUMNS = 18
SLACK = 0.05  # an exponent above its bound by this much is noise

AXES = {"n": "rows", "d": "columns", "width": "width", "batch_size": "batch"}
_UNITS = {"score": "score_samples", "sample": "sample", "fit": "one step of fit"}


class Speed(NamedTuple):
    """The records to show."""

    costs: list
    same: list
    search: list
    rivals: list
    current: bool
    quick: bool

    def everything(self):
        return [*self.costs, *self.same, *self.search, *self.rivals]

    def devices(self):
        return list(dict.fromkeys((r["device"], r["threads"]) for r in self.costs))


def collect(records, code, quick):
    """The last record of every key, in the order of their first appearance."""
    rows, current = records.to_show(code, quick)
    last = {}
    for row in rows:
        last[_identity(row)] = row
    found = {"cost": [], "same": [], "search": [], "rivals": []}
    for row in last.values():
        found[row["kind"]].append(row)
    return Speed(*found.values(), current, quick)


def _identity(row):
    names = ("kind", "what", "device", "threads", "n", "d", "width", "batch_size", "dtype", "table", "seed")
    return tuple(row.get(name) for name in names)


def sweeps(speed, what, device, threads, dtype="float64"):
    """Axis -> records along it, all other sizes in the middle; the middle is what most records share."""
    rows = [
        r
        for r in speed.costs
        if (r["what"], r["device"], r["threads"]) == (what, device, threads)
        and r.get("dtype", dtype) == dtype
    ]
    axes = [axis for axis in AXES if any(axis in r for r in rows)]
    middle = {axis: statistics.mode(r[axis] for r in rows) for axis in axes}
    found = {}
    for axis in axes:
        along = [r for r in rows if all(r[other] == middle[other] for other in axes if other != axis)]
        if len(along) > 1:
            found[axis] = sorted(along, key=lambda r: r[axis])
    return found


def exponent(sizes, seconds):
    """Slope of log seconds against log size: costs grow as size to this power."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _along(rows, axis, field="seconds"):
    return [r[axis] for r in rows], [r[field] for r in rows]


# -- verdicts ----------------------------------------------------------------------------------------------


def verdicts(speed):
    """One verdict per demanded figure."""
    return [
        _times_verdict(
            speed, "flow_matching", TIMES_FLOW_MATCHING, "flow_matching's exact compute_likelihood"
        ),
        _times_verdict(speed, "cnf", TIMES_CNF, "zuko's CNF (exact, its default width)"),
        _rows_verdict(speed),
        _columns_verdict(speed),
        _search_verdict(speed, "cuda", "one fit", TIMES_ONE_FIT),
        _search_verdict(speed, "cpu", "GridSearchCV", 1.0),
    ]


def _times_verdict(speed, model, times, what):
    demand = (
        f"exact log-density of 1,000 rows at d >= {MIN_COLUMNS}, CPU, one thread: at least {times:g} times "
        f"faster than {what}, at better NLL"
    )
    rows = [r for r in speed.rivals if r["n_features"] >= MIN_COLUMNS and r["threads"] == 1]
    if not rows:
        return Verdict(demand, "not measured", "open")
    figure = "; ".join(
        f"{r['table']} (d = {r['n_features']}) {r['ratios'][model]:.1f} times, "
        f"NLL {r['nll']['siflow_sk']:.2f} against {r['nll'][model]:.2f}, at its numerical error "
        f"{r['as_exact'][model]['times']:.1f} times"
        for r in rows
    )
    met = all(r["ratios"][model] >= times and r["nll"]["siflow_sk"] < r["nll"][model] for r in rows)
    return Verdict(demand, figure, "met" if met else "not met")


def _cpu_sweep(speed, axis):
    return sweeps(speed, "score", "cpu", 1).get(axis, [])


def _rows_verdict(speed):
    demand = (
        f"the cost of exact scoring grows no faster than linearly with rows (exponent at most {1 + SLACK:g})"
    )
    rows = _cpu_sweep(speed, "n")
    if not rows:
        return Verdict(demand, "not measured", "open")
    found = exponent(*_along(rows, "n"))
    figure = f"exponent {found:.2f} from {rows[0]['n']:,} to {rows[-1]['n']:,} rows"
    return Verdict(demand, figure, "met" if found <= 1 + SLACK else "not met")


def _columns_verdict(speed):
    demand = (
        "and with columns no faster than the network's own forward pass (exponent of the ratio at most "
        f"{SLACK:g})"
    )
    rows = _cpu_sweep(speed, "d")
    if not rows:
        return Verdict(demand, "not measured", "open")
    found = exponent(*_along(rows, "d", "ratio"))
    figure = (
        f"exponent {found:+.2f}: {rows[0]['ratio']:.2f} forward passes an evaluation at d = {rows[0]['d']}, "
        f"{rows[-1]['ratio']:.2f} at d = {rows[-1]['d']}"
    )
    return Verdict(demand, figure, "met" if found <= SLACK else "not met")


def _search_verdict(speed, device, other, times):
    demand = (
        f"InterpolantSearchCV of 5 candidates and 3 folds on {device.upper()} takes at most {times:g} "
        f"times the seconds of {other}" + (" with two processes" if device == "cpu" else "")
    )
    rows = [r for r in speed.search if r["device"] == device]
    if not rows:
        return Verdict(demand, "not measured", "open")
    figure = "; ".join(f"{r['ratios'][other]:.2f} times at width {r['width']}" for r in rows)
    return Verdict(demand, figure, "met" if all(r["ratios"][other] <= times for r in rows) else "not met")


# -- the page ----------------------------------------------------------------------------------------------


def page(speed, picture=None):
    """The report as reStructuredText."""
    parts = [
        ".. Written by python -m siflow_sk.benchmarks speed; changes made here are lost.\n",
        title("Speed", "="),
        _remarks(speed),
        title("What is demanded, and what was found"),
        table(("Demand", "Figure", "Verdict"), [tuple(v) for v in verdicts(speed)], (50, 38, 12)),
        _rivals_section(speed),
        _same_section(speed),
        _search_section(speed),
        *(_device_section(speed, *device) for device in speed.devices()),
        f".. image:: {picture.name}\n   :alt: Seconds against rows, columns and width\n" if picture else "",
        circumstances(speed.everything()),
    ]
    return "\n".join(part for part in parts if part)


def _remarks(speed):
    text = (
        "Measured by ``python -m siflow_sk.benchmarks speed``.  Medians; ratios are taken call by call "
        "within one run, of functions called in turn.  With one thread seconds are of the processor, which "
        "others on the machine disturb little; otherwise of the wall.\n"
    )
    if all(r.get("device", "cpu") == "cpu" for r in speed.everything()):
        text += "\nNothing here was measured on CUDA: see ``gpu.md`` beside this page.\n"
    return with_state(text, speed.current, speed.quick)


def _rivals_section(speed):
    if not speed.rivals:
        return ""
    rows = []
    for r in speed.rivals:
        for model in r["seconds"]:
            better = r["better"].get(model)
            dagger = "†" if r["capped"].get(model) else ""
            rows.append(
                (
                    f"{r['table']} ({r['n_features']})",
                    model,
                    f"{r['nll'][model]:.2f} ± {r['standard_error'][model]:.2f}{dagger}",
                    f"{better[0]:+.2f} ± {better[1]:.2f}" if better else "",
                    f"{r['fit_seconds'][model]:.0f}",
                    f"{r['numerical_error'][model]:.0e}",
                    f"{r['seconds'][model]:.2f}",
                    f"{r['ratios'][model]:.1f}",
                )
            )
        for model, other in r["as_exact"].items():
            row = f"siflow_sk, tol={other['tol']:g}", "", "", "", f"as {model}", f"{other['seconds']:.2f}"
            rows.append(
                (f"{r['table']} ({r['n_features']})", *row, f"{model} {other['times']:.1f} times this")
            )
    header = (
        "Table (columns)",
        "Model",
        "Test NLL",
        "Ours is better by",
        "Fit, s",
        "Numerical error, nats",
        "1,000 rows, s",
        "Times ours",
    )
    return "\n".join(
        (
            title("Rivals with exact log-densities"),
            "Fitted to open tables (preparation as in the league), then 1,000 rows scored in turn on one "
            "thread.  The default estimator integrates in float64, its velocity in float32 where its "
            "tolerance allows; the others score in float32.  *Numerical error*: what 99 % of the test rows "
            "stay below, against a solution in float64 at tolerances of 1e-10.  The last lines of a table "
            "are of the default estimator with the largest of some tolerances at which it errs by no more "
            "than a rival does, and give how many times its time that rival takes.  A dagger marks a fit "
            "that the cap on time ended.\n",
            table(header, rows),
        )
    )


def _same_section(speed):
    if not speed.same:
        return ""
    rows = []
    for r in speed.same:
        for name, value in r["seconds"].items():
            rows.append(
                (
                    f"{r['d']}",
                    r["device"],
                    name,
                    f"{value:.3f}",
                    f"{r['ratios'][name]:.1f}",
                    f"{r['largest_difference'][name]:.1e}",
                )
            )
    return "\n".join(
        (
            title("The same network in other hands"),
            "Exact log-densities of 1,000 rows under one trained network of width 256: by our default "
            "solver; by torchdiffeq's dopri5 with our closed-form divergence; by what zuko's CNF does with "
            "a network; by flow_matching's ``compute_likelihood`` with the exact divergence.\n",
            table(("d", "Device", "By", "Seconds", "Times ours", "Largest difference, nats"), rows),
        )
    )


def _search_section(speed):
    if not speed.search:
        return ""
    rows = [
        (
            r["device"],
            f"{r['width']}",
            name,
            f"{value:.1f}",
            f"{1 / r['ratios'][name]:.2f}" if name in r["ratios"] else "1",
        )
        for r in speed.search
        for name, value in r["seconds"].items()
    ]
    differences = [r["largest_difference"] for r in speed.search if "largest_difference" in r]
    return "\n".join(
        (
            title("A search whose fits are trained together"),
            "Five candidates and three folds of 1,500 rows with 8 columns, two processes on a CPU, without "
            "the final fit: by InterpolantSearchCV (together), by GridSearchCV, and one of the fits alone."
            + (
                f"  Mean scores of the two searches differ by at most {max(differences):.1e} nats."
                if differences
                else ""
            )
            + "\n",
            table(("Device", "Width", "What", "Seconds", "Times together"), rows),
        )
    )


def _device_section(speed, device, threads):
    named = device if device != "cpu" else f"cpu, {threads} thread{'s' * (threads > 1)}"
    parts = [
        title(f"Growth of costs ({named})"),
        "The default network and precision; scoring and sampling with 8 steps of RK4, 32 evaluations, so "
        "that the work is known.  Floor: the operations of the matrix products alone, at the rate that "
        "torch's own products of the same shapes reach here, and the part of that rate which is reached.  "
        "Memory: the peak while it ran, above the level before.\n",
    ]
    for what in _UNITS:
        found = sweeps(speed, what, device, threads)
        for axis, rows in found.items():
            parts += _sweep(what, axis, rows)
    parts.append(_single_precision(speed, device, threads))
    return "\n".join(parts)


def _sweep(what, axis, rows):
    fixed = ", ".join(f"{AXES[a]} {rows[0][a]:,}" for a in AXES if a in rows[0] and a != axis)
    slope = exponent(*_along(rows, axis))
    last = exponent(*_along(rows[-2:], axis))
    yield title(f"{_UNITS[what]} against {AXES[axis]}", "~")
    yield f"Exponent {slope:.2f}, over the last two {last:.2f}; {fixed}.\n"
    lines = []
    for r in rows:
        floor = r["floor_seconds"]
        cells = [f"{r[axis]:,}", _milliseconds(r["seconds"]), _milliseconds(floor)]
        cells += [f"{100 * floor / r['seconds']:.0f} %", mebibytes(r["peak_bytes"])]
        if "ratio" in r:
            cells.append(f"{r['ratio']:.2f}")
        lines.append(tuple(cells))
    header = [AXES[axis].capitalize(), "Milliseconds", "Floor, ms", "Of the floor's rate", "Peak memory"]
    if "ratio" in rows[0]:
        header.append("Times as many forward passes")
    yield table(header, lines)


def _milliseconds(value):
    return f"{1e3 * value:.3g}"


def _single_precision(speed, device, threads):
    rows = []
    for what in ("score", "sample"):
        single = [
            r
            for r in speed.costs
            if (r["what"], r["device"], r["threads"], r["dtype"] if "dtype" in r else "")
            == (what, device, threads, "float32")
        ]
        for r in single:
            same = {k: r[k] for k in ("what", "device", "threads", "n", "d", "width")} | {"dtype": "float64"}
            double = [o for o in speed.costs if all(o.get(k) == v for k, v in same.items())]
            if double:
                ratio = double[-1]["seconds"] / r["seconds"]
                rows.append((_UNITS[what], _milliseconds(r["seconds"]), f"{ratio:.2f}"))
    if not rows:
        return ""
    return title("float32", "~") + "\n" + table(("", "Milliseconds", "Times faster than float64"), rows)


def draw(speed, path):
    """Seconds against every size, on logarithmic axes, with the floor of the matrix products.

    Returns
    -------
    path : Path or None
        None where there is nothing to draw or no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if not speed.costs:
        return None
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = dict(zip(("n", "d", "width"), figure.subplots(1, 3, sharey=True), strict=True))
    colours = {}
    for device, threads in speed.devices():
        for what in ("score", "sample"):
            for axis, rows in sweeps(speed, what, device, threads).items():
                label = f"{what}, {device}" + (f", {threads} threads" if threads > 1 else "")
                colour = colours.setdefault(label, f"C{len(colours)}")
                x, y = _along(rows, axis)
                panels[axis].loglog(x, y, "o-", color=colour, label=label)
                panels[axis].loglog(x, _along(rows, axis, "floor_seconds")[1], ":", color=colour)
    for axis, axes in panels.items():
        axes.set_xlabel(AXES[axis])
        axes.grid(alpha=0.3)
    panels["n"].set_ylabel("seconds (dotted: floor)")
    panels["n"].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
