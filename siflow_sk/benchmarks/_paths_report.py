"""The page of ``paths``: what each path costs, and whether the learnt one costs less."""

import numpy as np

from ._rst import circumstances, not_measured, table, title, with_state

TABLES = ("gaussian", "eight_gaussians", "checkerboard")
_NAMES = {
    "trigonometric": "Quarter circles",
    "linear": "Straight lines",
    "fourier_1": "Learnt, 1 sine",
    "fourier_2": "Learnt, 2 sines",
    "fourier_4": "Learnt, 4 sines",
    "base": "Straight lines, base learnt",
    "fourier_4_base": "Learnt, 4 sines, base learnt",
    "transport": "Straight lines, optimal pairs",
}
SLACK = 0.01  # nats of numerical error that the worst of the paths is granted
FINE = 0.001  # nats of numerical error, of every path by itself
LEARNT, FIXED = "fourier_4", ("trigonometric", "linear")  # what is set against what in the last lines


def evaluations(excess, numerical, level):
    """Fewest evaluations of the field with which shortfall and numerical error stay below ``level``.

    Four for every Runge-Kutta step, interpolated between measured numbers of steps on logarithmic scales;
    NaN where none suffices.

    Parameters
    ----------
    excess : float
    numerical : list of (int, float)
        Steps, ascending, and the error of the log-density with so many.
    level : float
    """
    room = level - excess
    for k, (n, error) in enumerate(numerical):
        if error <= room:
            if k == 0:
                return 4.0 * n
            fewer, before = numerical[k - 1]
            share = np.log(before / room) / np.log(before / error)
            return float(4.0 * fewer * (n / fewer) ** share)
    return float("nan")


def page(records, current, quick):
    """The report as reStructuredText."""
    shown = list({(r["kind"], r["table"], r["max_iter"], r["seed"]): r for r in records}.values())
    n_train = ", ".join(f"{n:,}" for n in sorted({r["n_train"] for r in shown}))
    remarks = (
        "One network (two hidden layers of 64), as many steps of the quadratic loss as the headings say, in "
        f"batches of 256, no polish, no preprocessing, {n_train} training rows; means over the seeds.  "
        "*Energy* is the kinetic energy of the flow, ``path_length``, with the larger of its Monte-Carlo "
        "error and the standard deviation over the seeds.  *Steps* is how many Dormand-Prince steps the grid "
        "of the solver needs for a log-density within 1e-4 nats.  *Below the truth* is the mean by which the "
        "log-density of held-out rows falls short of the exact one: the Kullback-Leibler divergence.  "
        "*Evaluations* of the field by classical Runge-Kutta steps of one size, four for each.  The first "
        "are those after which the log-density is the same on every path: its mean absolute numerical error "
        f"and the shortfall together are at most the largest shortfall of the table and {SLACK:g} nats.  The "
        f"second bring every path by itself to a mean absolute numerical error of {FINE:g} nats.  The last "
        "lines of a section set a learnt path against the fixed one that has the smaller mean: ratios of "
        "models of one seed, with the standard error of their mean; less is less by more than two of these.\n"
    )
    parts = [
        ".. Written by python -m siflow_sk.benchmarks paths; changes made here are lost.\n",
        title("Shorter paths", "="),
        with_state(remarks, current, quick),
    ]
    sections = {(r["table"], r["max_iter"]): [] for r in shown}
    for r in shown:
        sections[r["table"], r["max_iter"]].append(r)
    for name, max_iter in sorted(sections, key=lambda s: (TABLES.index(s[0]), s[1])):
        parts += _section(name, max_iter, sections[name, max_iter])
    places = {
        (n, m): f"{_heading(n)} at {m:,} steps" for n in TABLES for m in sorted({s[1] for s in sections})
    }
    paths = {model: f"*{label}*" for model, label in _NAMES.items()}
    found = {((r["table"], r["max_iter"]), r["kind"]) for r in shown}
    return "\n".join(
        part for part in (*parts, not_measured(places, paths, found), circumstances(shown)) if part
    )


def _section(name, max_iter, own):
    """Heading, table and last lines."""
    rows = {model: _of_seeds(model, own) for model in _NAMES}
    rows = {model: seeds for model, seeds in rows.items() if seeds}
    header = (
        "Path",
        "Energy",
        "Steps",
        "Below the truth, nats",
        "Evaluations",
        f"for {FINE:g} nats",
        "Fit, s",
        "Seeds",
    )
    yield title(f"{_heading(name)}, {max_iter:,} steps of training")
    yield table(header, [(_NAMES[model], *_cells(seeds.values())) for model, seeds in rows.items()])
    if LEARNT in rows and any(model in rows for model in FIXED):
        yield _comparison(rows)
    if name == "gaussian":
        yield (
            "Exact energies: quarter circles 5.552, straight lines 5.358, at best 4.803, 4.726 and 4.695 "
            "with 1, 2 and 4 sines; the squared Wasserstein distance is 4.5.\n"
        )


def _of_seeds(model, all_paths):
    """Seed -> record of one path, with the two numbers of evaluations."""

    def level(seed):
        return SLACK + max(r["excess"] for r in all_paths if r["seed"] == seed)

    return {
        r["seed"]: r
        | {
            "evaluations": evaluations(r["excess"], r["numerical"], level(r["seed"])),
            "fine": evaluations(0.0, r["numerical"], FINE),
        }
        for r in all_paths
        if r["kind"] == model
    }


def _cells(of_seeds):
    """Means over the seeds of one path."""

    def mean(field):
        return float(np.mean([r[field] for r in of_seeds]))

    def with_error(field):
        over = np.std([r[field] for r in of_seeds], ddof=1) if len(of_seeds) > 1 else 0.0
        return f"{mean(field):.3f} ± {max(over, mean(f'{field}_error')):.3f}"

    return (
        with_error("energy"),
        f"{mean('steps'):.1f}",
        with_error("excess"),
        f"{mean('evaluations'):.0f}",
        f"{mean('fine'):.0f}",
        f"{mean('fit_seconds'):.0f}",
        str(len(of_seeds)),
    )


def _comparison(rows):
    """The learnt path over the better of the fixed ones, figure by figure, and in words."""
    energy, one, fine = (_ratio(rows, field) for field in ("energy", "evaluations", "fine"))
    said = (
        f"{_NAMES[LEARNT]}, over the better of the fixed paths ({', '.join(_NAMES[m] for m in FIXED)}): "
        f"energy {_plus_minus(*energy)}, evaluations at one log-density {_plus_minus(*one)}, for {FINE:g} "
        f"nats {_plus_minus(*fine)}."
    )
    return f"{said}\n" if np.isnan(energy[1]) else f"{said}  {_verdict(energy, one, fine)}\n"


def _verdict(energy, one, fine):
    words = "shorter" if _is_less(*energy) else "no shorter"
    each = ["fewer" if _is_less(*ratio) else "no fewer" for ratio in (one, fine)]
    takes = (
        f"takes {each[0]} evaluations"
        if each[0] == each[1]
        else f"takes {each[0]} evaluations at one log-density, {each[1]} for {FINE:g} nats"
    )
    joined = "and" if ("no" in words) == ("no" in takes) else "but"
    return f"**The path is {words}, {joined} {takes}.**"


def _ratio(rows, field):
    """Mean over the seeds, and its standard error, of the learnt path to a fixed one; NaN for one seed."""
    fixed = min(
        (rows[model] for model in FIXED if model in rows),
        key=lambda seeds: np.mean([r[field] for r in seeds.values()]),
    )
    shared = rows[LEARNT].keys() & fixed.keys()
    ratios = [rows[LEARNT][seed][field] / fixed[seed][field] for seed in sorted(shared)]
    error = np.std(ratios, ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.nan
    return float(np.mean(ratios)), float(error)


def _is_less(ratio, error):
    return ratio + 2.0 * error < 1.0


def _plus_minus(ratio, error):
    return f"{ratio:.2f}" if np.isnan(error) else f"{ratio:.2f} ± {error:.2f}"


def _heading(name):
    return name.replace("_", " ").capitalize()
