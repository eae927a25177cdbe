"""``paths``: fixed, learnt and coupled paths: kinetic energy, steps of the solver, log-density."""

import time

import numpy as np

from .. import InterpolantFlow
from ..datasets import Checkerboard, EightGaussians
from ..interpolants import Fourier
from ..solvers import RungeKutta
from ..velocities import MLP
from ._jobs import Job, measure_and_report
from ._options import add_command, names
from ._records import code_of
from ._rst import circumstances, not_measured, table, title

MODELS = {
    "trigonometric": {"interpolant": "trigonometric"},
    "linear": {"interpolant": "linear"},
    "fourier_1": {"interpolant": Fourier(n_modes=1)},
    "fourier_2": {"interpolant": Fourier(n_modes=2)},
    "fourier_4": {"interpolant": Fourier(n_modes=4)},
    "base": {"interpolant": "linear", "base": "learnt_gaussian"},
    "fourier_4_base": {"interpolant": Fourier(n_modes=4), "base": "learnt_gaussian"},
    "transport": {"interpolant": "linear", "coupling": "optimal_transport"},
}
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
N_TRAIN, N_TEST = 10_000, 4_000
SETTINGS = {"preprocessor": "none", "polish": 0, "batch_size": 256, "weight_decay": 0.0}
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)  # of Runge-Kutta, uniform
SLACK = 0.01  # nats of numerical error that the worst of the paths is granted
FINE = 0.001  # nats of numerical error, of every path by itself
LEARNT, FIXED = "fourier_4", ("trigonometric", "linear")  # what is set against what in the last lines

_DESCRIPTION = """\
The same network and number of steps with every path between a standard normal and a density in the plane:
kinetic energy of the flow, steps that its grid of times needs, mean log-density of held-out rows, evaluations
of the field that the same log-density takes on each path."""


class Gaussian:
    """N((2, 0), diag(0.25, 2.25)), for which all energies are known."""

    mean, std = np.array([2.0, 0.0]), np.array([0.5, 1.5])

    def sample(self, n, random_state):
        return self.mean + self.std * np.random.default_rng(random_state).standard_normal((n, 2))

    def score_samples(self, X):
        z = (X - self.mean) / self.std
        return -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi) - np.log(self.std).sum()


TABLES = {"gaussian": Gaussian, "eight_gaussians": EightGaussians, "checkerboard": Checkerboard}


def add_parser(commands):
    parser = add_command(
        commands, "paths", run, summary="fixed, learnt and coupled paths", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("--tables", type=names(TABLES), default=tuple(TABLES), metavar="A,B", help=f"of {', '.join(TABLES)}")
    add("--models", type=names(MODELS), default=tuple(MODELS), metavar="A,B", help=f"of {', '.join(MODELS)}")
    add("--max-iter", type=int, default=1000, metavar="N", help="steps of training (default: %(default)s)")


def run(*, data, seeds, tables, models, max_iter, quick, **options):  # the densities need no data
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    code = dict.fromkeys(MODELS, f"{library}-{code_of('benchmarks/_paths.py')}")

    def jobs():
        return [_job(m, name, max_iter, seed, quick) for name in tables for m in models for seed in seeds]

    return measure_and_report(jobs, code, page, quick=quick, **options)


def _job(model, name, max_iter, seed, quick):
    def measure():
        density = TABLES[name]()
        n_train, n_test = (200, 100) if quick else (N_TRAIN, N_TEST)
        X, X_test = (
            density.sample(n_train, random_state=seed),
            density.sample(n_test, random_state=1000 + seed),
        )
        short = (
            {"max_iter": 20, "batch_size": 32, "velocity": MLP(width=16)}
            if quick
            else {"max_iter": max_iter, "velocity": MLP(width=64)}
        )
        start = time.perf_counter()
        flow = InterpolantFlow(**{**SETTINGS, **MODELS[model], **short}, random_state=seed).fit(X)
        seconds = time.perf_counter() - start
        energy, error = flow.path_length(200 if quick else 4000, random_state=seed)
        values, n_steps = flow.score_samples(X_test), flow.solver_.n_steps_
        excess = density.score_samples(X_test) - values
        return {
            "energy": energy,
            "energy_error": error,
            "steps": n_steps,
            "excess": float(excess.mean()),
            "excess_error": float(excess.std(ddof=1) / np.sqrt(len(excess))),
            "numerical": _errors(flow, X_test[:512], values[:512]),
            "fit_seconds": seconds,
        }

    def line(r):
        return (
            f"{name} {model}, seed {seed}: energy {r['energy']:.3f} +- {r['energy_error']:.3f}, "
            f"{r['steps']} steps, {r['excess']:.3f} nats below the truth, fit {r['fit_seconds']:.1f} s"
        )

    return Job({"kind": model, "table": name, "max_iter": max_iter, "seed": seed}, measure, line)


def _errors(flow, X, values):
    """Mean absolute error of the log-density with each of ``STEPS`` Runge-Kutta steps."""
    found = []
    for n_steps in STEPS:
        flow.solver_ = RungeKutta(n_steps=n_steps)
        found.append(float(np.mean(np.abs(flow.score_samples(X) - values))))
    return found


def evaluations(excess, numerical, level):
    """Fewest evaluations of the field with which shortfall and numerical error stay below ``level``.

    Four for every Runge-Kutta step, interpolated between the numbers of ``STEPS`` on logarithmic scales;
    NaN where none suffices.
    """
    room = level - excess
    for k, error in enumerate(numerical):
        if error <= room:
            if k == 0:
                return 4.0 * STEPS[0]
            before = numerical[k - 1]
            share = np.log(before / room) / np.log(before / error)
            return float(4.0 * STEPS[k - 1] * (STEPS[k] / STEPS[k - 1]) ** share)
    return float("nan")


def page(records, current, quick):
    """The report as reStructuredText."""
    shown = list({(r["kind"], r["table"], r["max_iter"], r["seed"]): r for r in records}.values())
    remarks = (
        "One network (two hidden layers of 64), as many steps of the quadratic loss as the headings say, in "
        f"batches of 256, no polish, no preprocessing, {N_TRAIN:,} training rows; means over the seeds.  "
        "*Energy* is the kinetic energy of the flow, ``path_length``, with the larger of its Monte-Carlo "
        "error and the standard deviation over the seeds.  *Steps* is how many Dormand-Prince steps the grid "
        "of the solver needs for a log-density within 1e-4 nats.  *Below the truth* is the mean by which the "
        "log-density of held-out rows falls short of the exact one: the Kullback-Leibler divergence.  "
        "*Evaluations* of the field by classical Runge-Kutta steps of one size, four for each.  The first "
        "are those after which the log-density is the same on every path: its mean absolute numerical error "
        f"and the shortfall together are at most the largest shortfall of the table and {SLACK:g} nats.  The "
        f"second bring every path by itself to a mean absolute numerical error of {FINE:g} nats.\n"
    )
    if quick:
        remarks = (
            ".. warning::\n\n   Written with ``--quick``: tiny training budgets and a few rows. The command "
            "works; the figures mean nothing.\n\n" + remarks
        )
    elif not current:
        remarks += "\nSome of these results were measured with an earlier state of the code.\n"
    parts = [
        ".. Written by python -m siflow_sk.benchmarks paths; changes made here are lost.\n",
        title("Shorter paths", "="),
        remarks,
    ]
    sections = {(r["table"], r["max_iter"]): [] for r in shown}
    for r in shown:
        sections[r["table"], r["max_iter"]].append(r)
    for name, max_iter in sorted(sections, key=lambda s: (list(TABLES).index(s[0]), s[1])):
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
    rows = {model: _figures([r for r in own if r["kind"] == model], own) for model in _NAMES}
    rows = {model: row for model, row in rows.items() if row}
    header = (
        "Path",
        "Energy",
        "Steps",
        "Below the truth, nats",
        "Evaluations",
        f"for {FINE:g} nats",
        "Fit, s",
    )
    cells = [
        (
            _NAMES[model],
            f"{row['energy']:.3f} ± {row['energy_error']:.3f}",
            f"{row['steps']:.1f}",
            f"{row['excess']:.3f} ± {row['excess_error']:.3f}",
            f"{row['evaluations']:.0f}",
            f"{row['fine']:.0f}",
            f"{row['fit_seconds']:.0f}",
        )
        for model, row in rows.items()
    ]
    yield title(f"{_heading(name)}, {max_iter:,} steps of training")
    yield table(header, cells)
    fixed = [rows[model] for model in FIXED if model in rows]
    if fixed and LEARNT in rows:
        shares = [rows[LEARNT][f] / min(row[f] for row in fixed) for f in ("energy", "evaluations", "fine")]
        yield (
            f"{_NAMES[LEARNT]}, over the better of the fixed paths ({', '.join(_NAMES[m] for m in FIXED)}): "
            f"energy {shares[0]:.2f}, evaluations at one log-density {shares[1]:.2f}, for {FINE:g} nats "
            f"{shares[2]:.2f}.  {_verdict(*shares)}\n"
        )
    if name == "gaussian":
        yield (
            "Exact energies: quarter circles 5.552, straight lines 5.358, at best 4.803, 4.726 and 4.695 "
            "with 1, 2 and 4 sines; the squared Wasserstein distance is 4.5.\n"
        )


def _verdict(energy, *evaluations):
    """In words; a twentieth less is less."""
    shorter = "shorter" if energy < 0.95 else "no shorter"
    fewer = "fewer" if max(evaluations) < 0.95 else "no fewer"
    joined = "and" if (shorter, fewer) in (("shorter", "fewer"), ("no shorter", "no fewer")) else "but"
    return f"**The path is {shorter}, {joined} takes {fewer} evaluations.**"


def _heading(name):
    return name.replace("_", " ").capitalize()


def _figures(own, all_paths):
    """Means over the seeds of one path, empty where it was not measured."""
    if not own:
        return {}

    def mean(field):
        return float(np.mean([r[field] for r in own]))

    def spread(field):
        over = np.std([r[field] for r in own], ddof=1) if len(own) > 1 else 0.0
        return max(over, mean(f"{field}_error"))

    def level(seed):
        return SLACK + max(r["excess"] for r in all_paths if r["seed"] == seed)

    return {
        **{field: mean(field) for field in ("energy", "steps", "excess", "fit_seconds")},
        **{f"{field}_error": spread(field) for field in ("energy", "excess")},
        "evaluations": np.mean([evaluations(r["excess"], r["numerical"], level(r["seed"])) for r in own]),
        "fine": np.mean([evaluations(0.0, r["numerical"], FINE) for r in own]),
    }
