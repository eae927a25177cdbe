"""``paths``: fixed, learnt and coupled paths: kinetic energy, steps of the solver, log-density."""

import time

import numpy as np

from .. import InterpolantFlow
from ..datasets import Checkerboard, EightGaussians
from ..interpolants import Fourier
from ..solvers import RungeKutta
from ..velocities import MLP
from . import _paths_report
from ._jobs import Job, measure_and_report
from ._options import add_command, names
from ._records import code_of

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
N_TRAIN, N_TEST = 10_000, 4_000
SETTINGS = {"preprocessor": "none", "polish": 0, "batch_size": 256, "weight_decay": 0.0}
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48)  # of Runge-Kutta, uniform

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

    return measure_and_report(jobs, code, _paths_report.page, quick=quick, **options)


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
            "n_train": n_train,
            "energy": energy,
            "energy_error": error,
            "steps": n_steps,
            "excess": float(excess.mean()),
            "excess_error": float(excess.std(ddof=1) / np.sqrt(len(excess))),
            "numerical": [*zip(STEPS, _errors(flow, X_test[:512], values[:512]), strict=True)],
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
