"""``torus``: dihedral angles of proteins, the flow beside a kernel density on the embedded angles."""

import math
import time

import numpy as np
from scipy.special import i0e
from sklearn.neighbors import KernelDensity

from ..datasets import _files
from ..flow import InterpolantFlow
from ..velocities import MLP
from ._jobs import Job, measure_and_report
from ._options import add_command, names
from ._records import code_of
from ._rst import circumstances, not_measured, table, title, with_state

TABLES = ("isoleucine_dihedrals", "spike_6vxx_phi_psi")
BANDWIDTHS = tuple(0.03 * 2.0 ** (0.25 * j) for j in range(16))  # of the kernel, 0.03 to 0.4

_DESCRIPTION = """\
Mean log-density of held-out dihedral angles, in nats per row, the angles in radians.

The tables are torus/isoleucine_dihedrals.npz (phi, psi, chi1, chi2) and torus/spike_6vxx_phi_psi.npz with
x_train, x_val and x_test; nothing is fetched."""


# -- models: seed, quick -> an object with fit(X, X_val) and score_samples(X) ----------------------------


class EmbeddedKernelDensity:
    r"""KernelDensity on cosines and sines, as a density of the angles.

    On the torus a Gaussian kernel of bandwidth h in the embedding is, up to a factor, a product of von Mises
    kernels of concentration :math:`\kappa = 1/h^2`, since :math:`|e(\varphi) - e(\psi)|^2 =
    2 - 2\cos(\varphi - \psi)`; the factor :math:`(\kappa^{-1} / I_0(\kappa)e^{-\kappa})^p` makes it integrate
    to one.  The bandwidth is the best on the validation rows.
    """

    def __init__(self, bandwidths=BANDWIDTHS):
        self.bandwidths = bandwidths

    def fit(self, X, X_val):
        """The bandwidth with the largest mean log-density of X_val."""
        trees = {h: KernelDensity(bandwidth=h).fit(embedded(X)) for h in self.bandwidths}
        self.bandwidth_ = max(trees, key=lambda h: _on_torus(trees[h], h, X_val).mean())
        self.tree_ = trees[self.bandwidth_]
        return self

    def score_samples(self, X):
        """Log-density of the angles, nats."""
        return _on_torus(self.tree_, self.bandwidth_, X)


def embedded(X):
    """Cosines and sines of the angles, ``(n, 2 p)``."""
    return np.concatenate([np.cos(X), np.sin(X)], axis=1)


def _on_torus(tree, h, X):
    return tree.score_samples(embedded(X)) + X.shape[1] * (2.0 * math.log(h) - np.log(i0e(h**-2.0)))


class Flow:
    """InterpolantFlow, which keeps validation rows of its own: it is given training and validation rows."""

    def __init__(self, seed, quick, period=2.0 * math.pi, **parameters):
        self.seed, self.period = seed, period
        self.parameters = parameters | ({"max_iter": 20, "velocity": MLP(width=16)} if quick else {})

    def fit(self, X, X_val):
        """Fit to both tables."""
        periodic = self.period and dict.fromkeys(range(X.shape[1]), self.period)
        self.flow_ = InterpolantFlow(periodic=periodic, random_state=self.seed, **self.parameters)
        self.flow_.fit(np.concatenate([X, X_val]))
        return self

    def score_samples(self, X):
        """Log-density of the angles, nats."""
        return self.flow_.score_samples(X)


MODELS = {
    "ours": lambda seed, quick: Flow(seed, quick),
    "ours_transport": lambda seed, quick: Flow(seed, quick, coupling="optimal_transport"),
    "ours_wrapped": lambda seed, quick: Flow(seed, quick, base="wrapped_normal"),
    "ours_line": lambda seed, quick: Flow(seed, quick, period=None),
    "kernel": lambda seed, quick: EmbeddedKernelDensity(),
}
_NAMES = {
    "ours": "InterpolantFlow, periodic",
    "ours_transport": 'InterpolantFlow, periodic, coupling="optimal_transport"',
    "ours_wrapped": 'InterpolantFlow, periodic, base="wrapped_normal"',
    "ours_line": "InterpolantFlow, not periodic",
    "kernel": "KernelDensity on embedded angles",
}


# -- data ------------------------------------------------------------------------------------------------


def load(name, data=None):
    """Training, validation and test rows, radians, float64.

    Raises
    ------
    FileNotFoundError
        The file is in none of the folders.
    """
    folders = _files.data_folders(data)
    for folder in folders:
        path = folder / "torus" / f"{name}.npz"
        if path.is_file():
            with np.load(path) as stored:
                return tuple(stored[f"x_{split}"].astype(np.float64) for split in _files.SPLITS)
    raise FileNotFoundError(
        f"there is no file torus/{name}.npz in {', '.join(map(str, folders))}. Name the folder that holds it "
        "with --data or the environment variable SIFLOW_DATA."
    )


# -- the command ----------------------------------------------------------------------------------------


def add_parser(commands):
    parser = add_command(
        commands, "torus", run, summary="dihedral angles, on the torus", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("--tables", type=names(TABLES), default=TABLES, metavar="A,B", help=f"of {', '.join(TABLES)}")
    add("--models", type=names(MODELS), default=tuple(MODELS), metavar="A,B", help=f"of {', '.join(MODELS)}")


def codes():
    """The code that each kind of result rests on."""
    own = code_of("benchmarks/_torus.py")
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    return {m: f"{library}-{own}" if m.startswith("ours") else own for m in MODELS}


def run(*, data, seeds, tables, models, quick, **options):
    def jobs():
        return [
            _job(model, name, load(name, data), seed, quick)
            for name in tables
            for model in models
            for seed in (seeds if model.startswith("ours") else (0,))
        ]

    return measure_and_report(jobs, codes(), page, quick=quick, **options)


def _job(model, name, splits, seed, quick):
    train, val, test = (rows[:60] for rows in splits) if quick else splits

    def measure():
        start = time.perf_counter()
        fitted = MODELS[model](seed, quick).fit(train, val)
        fit = time.perf_counter() - start
        start = time.perf_counter()
        values = fitted.score_samples(test)
        score = time.perf_counter() - start
        found = {"mean": float(values.mean()), "error": float(values.std(ddof=1) / math.sqrt(len(values)))}
        bandwidth = getattr(fitted, "bandwidth_", None)
        return found | {
            "fit_seconds": fit,
            "score_seconds": score,
            "bandwidth": bandwidth,
            "values": [round(float(v), 6) for v in values],
        }

    def line(record):
        return (
            f"{name} {model}, seed {seed}: {record['mean']:.3f} ± {record['error']:.3f}; "
            f"fit {record['fit_seconds']:.1f} s"
        )

    return Job({"kind": model, "table": name, "seed": seed}, measure, line)


def page(records, current, quick):
    """The report as reStructuredText."""
    shown = list({(r["kind"], r["table"], r["seed"]): r for r in records}.values())
    remarks = (
        "Dihedral angles of proteins, in radians.  Mean log-density of the test rows in nats, ± its standard "
        "error over these; of several seeds the mean.  In brackets the paired difference to the kernel "
        "density, ± its standard error.  The kernel density is that of scikit-learn on cosines and sines, "
        "divided by the integral of its kernel over the torus (a product of von Mises densities), its "
        "bandwidth the best on the validation rows; the flow is given training and validation rows and keeps "
        "a tenth of them aside itself.  ``spike_6vxx_phi_psi`` holds three nearly identical chains of one "
        "protein, so that test rows have near copies among the training rows: a kernel density that "
        "remembers is at its best there, and the figures say little of new proteins.\n"
    )
    columns = [name for name in TABLES if any(r["table"] == name for r in shown)]
    rows = []
    for model, label in _NAMES.items():
        own = [r for r in shown if r["kind"] == model]
        if own:
            cells = [_cell([r for r in own if r["table"] == name], shown, name) for name in columns]
            rows.append((label, *cells, f"{np.median([r['fit_seconds'] for r in own]):.0f}"))
    parts = [
        ".. Written by python -m siflow_sk.benchmarks torus; changes made here are lost.\n",
        title("Angles", "="),
        with_state(remarks, current, quick),
        table(("Model", *columns, "Seconds to fit"), rows) if shown else "",
        not_measured(
            {name: f"``{name}``" for name in TABLES},
            {model: f"*{label}*" for model, label in _NAMES.items()},
            {(r["table"], r["kind"]) for r in shown},
        ),
        circumstances(shown),
    ]
    return "\n".join(part for part in parts if part)


def _cell(own, shown, name):
    if not own:
        return "-"
    values = np.mean([r["values"] for r in own], axis=0)
    text = f"{values.mean():.3f} ± {_standard_error(values):.3f}"
    rival = [r["values"] for r in shown if r["table"] == name and r["kind"] == "kernel"]
    if not rival or own[0]["kind"] == "kernel":
        return text
    gap = values - np.mean(rival, axis=0)
    return f"{text} ({gap.mean():+.3f} ± {_standard_error(gap):.3f})"


def _standard_error(values):
    return values.std(ddof=1) / math.sqrt(len(values))
