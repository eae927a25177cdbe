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
from ._rst import circumstances, table, title

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
SETTINGS = {"preprocessor": "none", "max_iter": 1000, "polish": 0, "batch_size": 256, "weight_decay": 0.0}
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)  # of Runge-Kutta, uniform
SLACK = 0.01  # nats of numerical error that the worst of the paths is granted

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


def run(*, data, seeds, tables, models, quick, **options):  # the densities need no data
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    code = dict.fromkeys(MODELS, f"{library}-{code_of('benchmarks/_paths.py')}")

    def jobs():
        return [_job(m, name, seed, quick) for name in tables for m in models for seed in seeds]

    return measure_and_report(jobs, code, page, quick=quick, **options)


def _job(model, name, seed, quick):
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
            else {"velocity": MLP(width=64)}
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

    return Job({"kind": model, "table": name, "seed": seed}, measure, line)


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
    shown = list({(r["kind"], r["table"], r["seed"]): r for r in records}.values())
    remarks = (
        "One network (two hidden layers of 64), 1,000 steps of the quadratic loss in batches of 256, no "
        f"polish, no preprocessing, {N_TRAIN:,} training rows; means over the seeds.  *Energy* is the "
        "kinetic energy of the flow, ``path_length``, with the larger of its Monte-Carlo error and the "
        "standard deviation over the seeds.  *Steps* is how many Dormand-Prince steps the grid of the "
        "solver needs for a log-density within 1e-4 nats.  *Below the truth* is the mean by which the "
        "log-density of held-out rows falls short of the exact one: the Kullback-Leibler divergence.  "
        "*Evaluations* of the field by classical Runge-Kutta steps of one size, four for each, until the "
        "log-density is the same on every path: its mean absolute numerical error and the shortfall "
        f"together are at most the largest shortfall of the table and {SLACK:g} nats.\n"
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
    header = ("Path", "Energy", "Steps", "Below the truth, nats", "Evaluations", "Fit, s")
    for name in TABLES:
        levels = {
            seed: SLACK + max(r["excess"] for r in shown if r["table"] == name and r["seed"] == seed)
            for seed in {r["seed"] for r in shown if r["table"] == name}
        }
        rows = [
            _row(label, [r for r in shown if r["table"] == name and r["kind"] == model], levels)
            for model, label in _NAMES.items()
            if any(r["table"] == name and r["kind"] == model for r in shown)
        ]
        if rows:
            parts += [title(name.replace("_", " ").capitalize()), table(header, rows)]
        if rows and name == "gaussian":
            parts.append(
                "Exact energies: quarter circles 5.552, straight lines 5.358, at best 4.803, 4.726 and 4.695 "
                "with 1, 2 and 4 sines; the squared Wasserstein distance is 4.5.\n"
            )
    return "\n".join([*parts, circumstances(shown)])


def _row(label, own, levels):
    def mean(field):
        return float(np.mean([r[field] for r in own]))

    def spread(field):
        over = np.std([r[field] for r in own], ddof=1) if len(own) > 1 else 0.0
        return max(over, mean(f"{field}_error"))

    return (
        label,
        f"{mean('energy'):.3f} ± {spread('energy'):.3f}",
        f"{mean('steps'):.1f}",
        f"{mean('excess'):.3f} ± {spread('excess'):.3f}",
        f"{np.mean([evaluations(r['excess'], r['numerical'], levels[r['seed']]) for r in own]):.0f}",
        f"{mean('fit_seconds'):.0f}",
    )
