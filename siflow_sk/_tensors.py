"""The door: NumPy and pandas on one side, torch on the other; devices, seeds, what a table may look like."""

import datetime
import math
import numbers
import warnings

import numpy as np
import torch
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import has_fit_parameter, validate_data

from ._compat import _check_sample_weight
from ._likelihood import BLOCK
from .exceptions import DataWarning

_DATES = (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)
_RESOLUTION = np.finfo(np.float64).eps

# more rows than a fit with default settings draws
MOST_ROWS = 2**20


# -- tables in -------------------------------------------------------------------------------------------


def check_table(estimator, X, *, reset, min_samples=1, y="no_validation", missing=False):
    """Validate a table as scikit-learn does, and refuse by name what it would silently misread.

    NaN passes where ``missing`` says so.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float64 or float32
        Never a copy of an array that already has one of these types.
    y : ndarray of shape (n_samples,)
        Only where ``y`` was passed.

    Raises
    ------
    TypeError
        Structured arrays, dates and durations, sparse input.
    ValueError
        Masked values, text, NaN, infinity, wrong number or names of columns.
    """
    X = _plain(X)
    try:
        return validate_data(
            estimator,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_min_samples=min_samples,
            ensure_all_finite="allow-nan" if missing else True,
        )
    except ValueError as error:
        if str(error).startswith("Input X contains NaN"):
            raise ValueError(
                f"{error}\nsiflow_sk.InterpolantImputer fits a density to rows with missing values and "
                "fills them."
            ) from error
        if "could not convert string" in str(error):
            raise ValueError(
                f"{error}. Column(s) {_text_columns(X)} hold text; encode them first, for example with "
                "sklearn.preprocessing.OneHotEncoder, or drop them."
            ) from error
        raise


def check_points(estimator, X):
    """Latent points ``(n, k)`` under the same rules as a table; their names and number are not looked at."""
    return check_array(_plain(X), dtype=[np.float64, np.float32], estimator=estimator, input_name="X")


def check_target(estimator, y, n_rows):
    """A target ``(n,)`` or ``(n, d)`` as float64, its shape kept.

    Raises
    ------
    ValueError
        None, NaN, infinity, text, masked values, or not one entry for each of the ``n_rows`` rows of X.
    """
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    y = check_array(_plain(y, "y"), dtype=np.float64, ensure_2d=False, input_name="y", estimator=estimator)
    if y.ndim == 0 or len(y) != n_rows:
        raise ValueError(
            f"y: one entry for each of the {n_rows} rows of X wanted, got the shape {y.shape}: X and y must "
            "come from the same rows."
        )
    return y


def weights_for(estimator, sample_weight, n_rows):
    """Weights ``(n_rows,)`` that are handed on to an estimator inside.

    Raises
    ------
    TypeError
        Its ``fit`` takes none.
    ValueError
        Negative weights, NaN, another number of them, none above zero.
    """
    if not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(f"{type(estimator).__name__}.fit takes no sample_weight.")
    like = np.empty((n_rows, 1))
    weight = _check_sample_weight(sample_weight, like, dtype=np.float64, ensure_non_negative=True)
    if not weight.sum() > 0:
        raise ValueError("sample_weight: at least one weight must be greater than zero.")
    return weight


def _plain(X, name="X"):
    """Take tensors to the host, and refuse what NumPy would read as something else."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu().numpy()
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.getmaskarray(X).any():
            raise ValueError(
                f"Input {name} is a masked array with {int(np.ma.getmaskarray(X).sum())} masked values, "
                "which would be read as ordinary numbers; impute them or drop the rows first."
            )
        X = X.data
    dtype = getattr(X, "dtype", None)
    if getattr(dtype, "names", None):
        raise TypeError(
            f"Input {name} is a structured array with fields {list(dtype.names)}; pass "
            "numpy.lib.recfunctions.structured_to_unstructured(X) or a pandas DataFrame."
        )
    refuse_dates(X)
    return X


def _columns(X):
    """(name, dtype) of every column of a frame, or of the one dtype of an array."""
    if hasattr(X, "dtypes") and hasattr(X, "columns"):
        return list(zip(X.columns, X.dtypes, strict=True))
    dtype = getattr(X, "dtype", None)
    return [] if dtype is None else [("X", dtype)]


def refuse_dates(X):
    bad = [str(name) for name, dtype in _columns(X) if getattr(dtype, "kind", "") in ("m", "M")]
    if hasattr(X, "columns") and hasattr(X, "iloc"):
        bad += [
            str(name)
            for j, (name, dtype) in enumerate(_columns(X))
            if getattr(dtype, "kind", "") == "O" and X.iloc[:, j].map(lambda v: isinstance(v, _DATES)).any()
        ]
    if bad:
        raise TypeError(
            f"Column(s) {bad} hold dates or durations; turn them into numbers first, for example seconds "
            "since a start, (column - column.min()).dt.total_seconds()."
        )


def _text_columns(X):
    rows = np.asarray(X, dtype=object)
    names = [str(name) for name in X.columns] if hasattr(X, "columns") else range(rows.shape[1])

    def is_text(value):
        try:
            float(value)
        except (TypeError, ValueError):
            return True
        return False

    return [name for name, column in zip(names, rows.T, strict=True) if any(map(is_text, column))]


def canonical(X, weight):
    """Distinct rows in lexicographic order with their summed weights.

    Training from these makes integer weights equal to repeated rows, and the fit independent of the order
    of the rows.

    Returns
    -------
    rows : ndarray of shape (n_distinct, d), float64
    weight : ndarray of shape (n_distinct,)
        Sums to 1.
    n_draws : int
        The sum of the weights if they are whole numbers, else the number of distinct rows.
    """
    keep = weight > 0
    rows = X[keep].astype(np.float64) + 0.0  # merges -0.0 and 0.0
    weight = weight[keep]
    order = np.lexsort(rows.T[::-1])
    rows, weight = rows[order], weight[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    start = np.flatnonzero(first)
    total = np.add.reduceat(weight, start)
    whole = bool(np.all(total == np.rint(total)))
    n_draws = int(total.sum()) if whole and total.sum() < 2**31 else len(start)
    return rows[start], total / total.sum(), n_draws


def thin(X, weight, limit, seed):
    """At most about ``limit`` distinct rows, drawn by a hash of their values; fewer rows are left alone.

    Equal rows are kept or left out together, so integer weights still equal repetition, and which rows are
    kept does not depend on their order.  Beside the rows kept it takes some numbers per row of X.
    """
    if len(X) <= limit:
        return X, weight
    hashes = np.empty(len(X), dtype=np.uint64)
    for rows in row_chunks(*X.shape):
        hashes[rows] = _row_hashes(X[rows], seed)
    hashes[weight == 0] = np.iinfo(np.uint64).max
    keep = np.flatnonzero((hashes <= np.partition(hashes, limit - 1)[limit - 1]) & (weight > 0))
    return X[keep], weight[keep]


def _row_hashes(X, seed):
    """Of each row one number, uniform over 64 bits; equal for equal rows."""
    bits = np.ascontiguousarray(X.astype(np.float64) + 0.0).view(np.uint64)  # merges -0.0 and 0.0
    mixed = np.full(len(X), seed, dtype=np.uint64)
    for column in bits.T:  # the finaliser of splitmix64 (Steele et al., OOPSLA 2014)
        mixed = (mixed ^ column) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def column_names(estimator, n_features):
    """Names to use in messages."""
    names = getattr(estimator, "feature_names_in_", None)
    return [f"column {j}" for j in range(n_features)] if names is None else [f"column {n!r}" for n in names]


def turns_of(X, periods):
    """Column -> (start, period) of the turn that angles come back in, from their periods.

    It starts at zero, or half a period below where X has negative values.
    """
    return {j: (-0.5 * period if X[:, j].min() < 0 else 0.0, period) for j, period in periods.items()}


def within_turns(X, turns):
    """X with angles taken into their turn; values that lie there already keep every bit."""
    if not turns:
        return X
    X = X.copy()
    for j, (start, period) in turns.items():
        column = X[:, j].astype(np.float64)
        inside = (column >= start) & (column < start + period)
        moved = (start + np.mod(column - start, period)).astype(X.dtype)
        X[:, j] = np.where(inside, column, np.where(moved >= start + period, start, moved))  # rounded up
    return X


def off_constant(X, active, constant, spread):
    """Rows with another value in a constant column, beyond what rounding and the rows that fit saw allow."""
    off = ~active
    slack = spread + 8 * np.finfo(X.dtype).eps * np.abs(constant[off])
    return (np.abs(X[:, off] - constant[off]) > slack).any(axis=1)


def split_constant(rows, names):
    """Which columns carry a density.

    Returns
    -------
    active : ndarray of bool, shape (d,)
    constant : ndarray of shape (d,)
        The value of each constant column, NaN elsewhere.

    Raises
    ------
    ValueError
        All rows are identical, or a column spans more than float64 can hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        spread = rows.max(axis=0) - rows.min(axis=0)
    for name, value in zip(names, spread, strict=True):
        if not np.isfinite(value):
            raise ValueError(f"{name} spans more than the float64 range; rescale it.")
    if len(rows) == 1:
        raise ValueError("all samples are identical: there is no density to estimate; pass other rows.")
    z = (rows - rows[0]) / np.where(spread > 0, spread, 1.0)
    scale = z.std(axis=0) * spread
    active = scale > 8 * _RESOLUTION * np.abs(rows).max(axis=0)
    if not active.any():
        raise ValueError("all samples are identical up to rounding; there is no density to estimate.")
    if not active.all():
        bad = [name for name, ok in zip(names, active, strict=True) if not ok]
        warnings.warn(
            f"{', '.join(bad)} constant: left out of the density, sampled back as the constant; rows with "
            "another value get log-density -inf.",
            DataWarning,
            stacklevel=5,
        )
    return active, np.where(active, np.nan, rows[0])


def warn_about(rows, n_rows, weight, active, names, from_float32):
    """Warnings on what a density estimator may stumble over; the fit goes on."""
    n, d = rows.shape[0], int(active.sum())
    messages = []
    effective = 1.0 / float((weight**2).sum())
    if effective < 2:
        messages.append(f"one weight dominates: the effective number of rows (Kish) is {effective:.2f}")
    if n < 0.5 * n_rows:
        messages.append(f"{n_rows - n} of {n_rows} rows are repeated: the density may be discrete")
    if n < 10 * d:
        messages.append(f"{n} distinct rows for {d} columns: fewer than 10 rows per column")
    values = rows[:, active]
    inner = [name for name, ok in zip(names, active, strict=True) if ok]
    messages += about_lattices(values, inner)
    if n > d > 1:
        z = (values - values[0]) / np.abs(values - values[0]).max(axis=0)
        z = (z - z.mean(axis=0)) / z.std(axis=0)
        rank = np.linalg.matrix_rank(z.T @ z / n, tol=1e-10 * d, hermitian=True)
        if rank < d:
            messages.append(f"the columns have rank {rank} < {d}: the density is singular")
    if from_float32:
        narrow = values.std(axis=0) <= 2.0**-12 * np.abs(values).max(axis=0)
        lossy = [name for name, bad in zip(inner, narrow, strict=True) if bad]
        if lossy:
            messages.append(
                f"{', '.join(lossy)}: float32 spends at least half of its digits on the offset; subtract it "
                "or pass float64"
            )
    for message in messages:
        warnings.warn(message + ".", DataWarning, stacklevel=5)


def about_lattices(values, names):
    """What to say of columns that look discrete: a list of at most one message."""
    if len(values) < 50:
        return []
    discrete = [name for name, column in zip(names, values.T, strict=True) if _few_values(column)]
    if not discrete:
        return []
    return [f"{', '.join(discrete)} looks discrete; consider jitter (uniform noise of one step's width)"]


def _few_values(column):
    distinct = len(np.unique(column))
    return distinct <= max(2, 0.05 * len(column)) or (
        distinct < 0.5 * len(column) and bool(np.all(column == np.rint(column)))
    )


# -- devices and seeds -----------------------------------------------------------------------------------


def resolve_device(device):
    """``"auto"`` is CUDA where it is, else the CPU (not MPS, which has no float64).

    Raises
    ------
    ValueError
        The device is not there; the message lists what is.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a device; there are 'auto' and {there}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"CUDA requested but torch has no CUDA support ({torch.__version__}); use device='cpu' or 'auto'."
        )
    if str(found) not in [*there, "cuda"]:
        raise ValueError(f"device={device!r} is not here; there are 'auto' and {there}.")
    return found


def draw_seed(random_state):
    """An int seed: the int itself, a draw from a RandomState, or fresh entropy for None."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, numbers.Integral):
        check_random_state(random_state)  # raises on negative and too large seeds
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def make_generator(seed, device="cpu"):
    """A private ``torch.Generator``; the global state is never touched."""
    return torch.Generator(device=device).manual_seed(seed)


def check_n_samples(n_samples, n_features, name="n_samples"):
    """A positive whole number that fits into memory.

    Raises
    ------
    ValueError
        Not a whole number >= 1.
    MemoryError
        The answer alone would need more than this machine can address, with the size in GB.
    """
    if not isinstance(n_samples, numbers.Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(f"Invalid value for {name!r}: {n_samples!r}; a whole number >= 1 is needed.")
    try:
        return np.empty((int(n_samples), n_features))
    except (MemoryError, ValueError) as error:
        size = 8e-9 * int(n_samples) * n_features
        raise MemoryError(f"{name}={n_samples} rows need {size:,.0f} GB; draw fewer at a time.") from error


# -- arrays <-> tensors ----------------------------------------------------------------------------------


def to_tensor(array, dtype=torch.float64):
    """A copy, so that read-only and memory-mapped arrays are safe."""
    return torch.tensor(np.ascontiguousarray(array), dtype=dtype)


def to_array(tensor, dtype=np.float64):
    """NumPy array on the host."""
    return tensor.detach().cpu().numpy().astype(dtype, copy=False)


def row_chunks(n_rows, n_features, device="cpu"):
    """Slices of whole blocks of rows: tables of about 32,768 numbers (256 kB); one block of a GPU."""
    size = BLOCK["cpu"] * max(1, math.ceil(2**15 / max(1, n_features) / BLOCK["cpu"]))
    size = size if device == "cpu" else BLOCK["cuda"]
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
