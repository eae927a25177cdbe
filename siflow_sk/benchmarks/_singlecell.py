"""``singlecell``: a snapshot that no model has seen, predicted from its neighbours in time."""

import time
from importlib.util import find_spec

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..datasets import _files
from ..transport import InterpolantTransport
from ..velocities import MLP
from ._jobs import Job, measure_and_report, say
from ._options import add_command, names
from ._records import code_of
from ._rst import circumstances, not_measured, table, title, with_state

TABLES = ("emt", "mouse_hematopoiesis")
ROWS = 1000  # of each sample that two snapshots are compared by, at most
DRAWS = 5  # samples that a distance is averaged over

_DESCRIPTION = """\
Cells at several times, other cells each time. An inner snapshot is left out; its two neighbours predict it.
The 1-Wasserstein distance between prediction and truth is exact, on samples of at most 1,000 rows.

The tables are singlecell/emt.npz and singlecell/mouse_hematopoiesis.npz with x_train and t_train (and val and
test); nothing is fetched. POT (extra ot) adds its mappings."""


# -- predictions: rows and times that are known, the time wanted, a seed -> rows --------------------------


def _neighbours(X, t, wanted):
    """The snapshots before and after, and how far between them the wanted time lies."""
    before, after = t[t < wanted].max(), t[t > wanted].min()
    return X[t == before], X[t == after], (wanted - before) / (after - before)


def before(X, t, wanted, seed):
    return _neighbours(X, t, wanted)[0]


def after(X, t, wanted, seed):
    return _neighbours(X, t, wanted)[1]


def random_lines(X, t, wanted, seed):
    source, target, share = _neighbours(X, t, wanted)
    partner = np.random.default_rng(seed).integers(len(target), size=len(source))
    return (1 - share) * source + share * target[partner]


def optimal_lines(X, t, wanted, seed):
    """Between rows that an exact assignment pairs; of the larger snapshot a sample."""
    source, target, share = _neighbours(X, t, wanted)
    rng, n = np.random.default_rng(seed), min(len(source), len(target))
    source, target = (rows[rng.permutation(len(rows))[:n]] for rows in (source, target))
    partner = linear_sum_assignment(cdist(source, target, "sqeuclidean"))[1]
    return (1 - share) * source + share * target[partner]


def _pot(name, **parameters):
    def predict(X, t, wanted, seed):
        from ot import da

        source, target, share = _neighbours(X, t, wanted)
        mapped = getattr(da, name)(**parameters).fit(Xs=source, Xt=target).transform(Xs=source)
        return (1 - share) * source + share * mapped

    return predict


def _ours(**parameters):
    def predict(X, t, wanted, seed, quick=False):
        short = {"max_iter": 20, "velocity": MLP(width=16)} if quick else {}
        # a flow between other times would not be asked
        near = np.isin(t, [t[t < wanted].max(), t[t > wanted].min()])
        model = InterpolantTransport(random_state=seed, **parameters, **short).fit(X[near], t[near])
        start = t[t < wanted].max()
        return model.transport(X[t == start], start, wanted)

    return predict


MODELS = {
    "ours": _ours(),
    "ours_independent": _ours(coupling="independent"),
    "optimal_lines": optimal_lines,
    "random_lines": random_lines,
    "pot_emd": _pot("EMDTransport"),
    "pot_sinkhorn": _pot("SinkhornTransport", reg_e=0.05, norm="median"),
    "pot_linear": _pot("LinearTransport"),
    "before": before,
    "after": after,
}
_NAMES = {
    "ours": "InterpolantTransport",
    "ours_independent": "InterpolantTransport, independent pairs",
    "optimal_lines": "Straight lines, optimal pairs",
    "random_lines": "Straight lines, random pairs",
    "pot_emd": "POT, EMDTransport",
    "pot_sinkhorn": "POT, SinkhornTransport",
    "pot_linear": "POT, LinearTransport",
    "before": "The snapshot before",
    "after": "The snapshot after",
}


# -- data and distance ----------------------------------------------------------------------------------


def load(name, data=None):
    """Training rows and their times, and all rows of the table and theirs, float64.

    Raises
    ------
    FileNotFoundError
        The file is in none of the folders.
    """
    folders = _files.data_folders(data)
    for folder in folders:
        path = folder / "singlecell" / f"{name}.npz"
        if path.is_file():
            with np.load(path) as stored:
                rows = {s: stored[f"x_{s}"].astype(np.float64) for s in _files.SPLITS}
                times = {s: stored[f"t_{s}"].astype(np.float64) for s in _files.SPLITS}
            everything = (np.concatenate(list(part.values())) for part in (rows, times))
            return rows["train"], times["train"], *everything
    raise FileNotFoundError(
        f"there is no file singlecell/{name}.npz in {', '.join(map(str, folders))}. Name the folder that "
        "holds it with --data or the environment variable SIFLOW_DATA."
    )


def wasserstein(a, b):
    """The 1-Wasserstein distance of two samples of one size, exact."""
    cost = cdist(a, b)
    return float(cost[linear_sum_assignment(cost)].mean())


def distances(predicted, truth, seed, n_rows=ROWS):
    """Mean over ``DRAWS`` samples of the distance of prediction and truth, and of two halves of the truth."""
    rng = np.random.default_rng([seed, 1])
    n = min(n_rows, len(predicted), len(truth) // 2)
    found, floor = [], []
    for _ in range(DRAWS):
        first, second = np.split(truth[rng.permutation(len(truth))[: 2 * n]], 2)
        found.append(wasserstein(predicted[rng.permutation(len(predicted))[:n]], first))
        floor.append(wasserstein(second, first))
    return {"distance": float(np.mean(found)), "floor": float(np.mean(floor)), "rows": n}


# -- the command ----------------------------------------------------------------------------------------


def add_parser(commands):
    parser = add_command(
        commands,
        "singlecell",
        run,
        summary="a snapshot in time predicted from its neighbours",
        description=_DESCRIPTION,
    )
    add = parser.add_argument
    add("--tables", type=names(TABLES), default=TABLES, metavar="A,B", help=f"of {', '.join(TABLES)}")
    add("--models", type=names(MODELS), default=tuple(MODELS), metavar="A,B", help=f"of {', '.join(MODELS)}")


def codes():
    """The code that each kind of result rests on."""
    own = code_of("benchmarks/_singlecell.py")
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    return {m: f"{library}-{own}" if m.startswith("ours") else own for m in MODELS}


def run(*, data, seeds, tables, models, quick, **options):
    if find_spec("ot") is None and any(m.startswith("pot") for m in models):
        say('POT is not installed, its mappings are left out; pip install "siflow_sk[ot]" adds it')
        models = tuple(m for m in models if not m.startswith("pot"))

    def jobs():
        return [
            _job(model, name, wanted, load(name, data), seed, quick)
            for name in tables
            for wanted in np.unique(load(name, data)[1])[1:-1]
            for model in models
            for seed in seeds
        ]

    return measure_and_report(jobs, codes(), page, quick=quick, **options)


def _job(model, name, wanted, rows, seed, quick):
    X, t, everything, times = rows
    more = {"quick": True} if quick and model.startswith("ours") else {}

    def measure():
        known = t != wanted
        start = time.perf_counter()
        predicted = MODELS[model](X[known], t[known], wanted, seed, **more)
        seconds = time.perf_counter() - start
        truth = everything[times == wanted]
        return distances(predicted, truth, seed, 50 if quick else ROWS) | {"fit_seconds": seconds}

    def line(record):
        return (
            f"{name} at {wanted:g} {model}, seed {seed}: W1 {record['distance']:.3f}, floor "
            f"{record['floor']:.3f}; {record['fit_seconds']:.1f} s"
        )

    return Job({"kind": model, "table": name, "time": float(wanted), "seed": seed}, measure, line)


def page(records, current, quick):
    """The report as reStructuredText."""
    shown = list({(r["kind"], r["table"], r["time"], r["seed"]): r for r in records}.values())
    columns = sorted({(r["table"], r["time"]) for r in shown})
    remarks = (
        "Cells are destroyed by the measurement, so every time has other cells.  An inner snapshot is left "
        "out and predicted: the training rows of the time before it are carried to it, by a model of the "
        "training rows of the two neighbours in time.  All but ours carry rows a share of the way in "
        "proportion to time.  Mean 1-Wasserstein distance, in the units of the table, between "
        "the prediction and all rows of the snapshot: exact, over "
        f"{DRAWS} samples of at most {ROWS:,} rows; mean and standard deviation over the seeds.  *Floor* is "
        "the distance of two samples of the true snapshot to each other, which no prediction can be "
        "expected to beat.\n"
    )
    header = ("Model", *(f"{name}, t = {when:g}" for name, when in columns), "Seconds")
    rows = []
    for model, label in _NAMES.items():
        own = [r for r in shown if r["kind"] == model]
        if own:
            cells = [_cell([r["distance"] for r in own if (r["table"], r["time"]) == c]) for c in columns]
            rows.append((label, *cells, f"{np.median([r['fit_seconds'] for r in own]):.1f}"))
    floors = [_cell([np.mean([r["floor"] for r in shown if (r["table"], r["time"]) == c])]) for c in columns]
    parts = [
        ".. Written by python -m siflow_sk.benchmarks singlecell; changes made here are lost.\n",
        title("Snapshots of single cells", "="),
        with_state(remarks, current, quick),
        table(header, [*rows, ("*Floor*", *floors, "")]) if shown else "",
        "POT's mappings are those of ``ot.da`` with their defaults, the entropic one with ``reg_e=0.05`` and "
        "costs divided by their median; rows go the share of the way to their image.\n",
        not_measured(
            {name: f"``{name}``" for name in TABLES},
            {model: f"*{label}*" for model, label in _NAMES.items()},
            {(r["table"], r["kind"]) for r in shown},
        ),
        circumstances(shown),
    ]
    return "\n".join(part for part in parts if part)


def _cell(values):
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 and np.std(values) > 0 else ""
    return f"{np.mean(values):.3f}{spread}"
