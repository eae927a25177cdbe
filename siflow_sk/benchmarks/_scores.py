"""What is told of the log-densities of the test rows."""

import base64
import zlib

import numpy as np
from scipy.stats import trim_mean

TRIMMED = 0.05  # of the rows, at each end


def summary(log_density):
    """Negative log-likelihood of the test rows in nats; a row of density 0 or NaN makes the mean infinite.

    A few rows may decide a mean: the median and the mean without the outer 5 % at each end stand beside it.

    Parameters
    ----------
    log_density : array-like of shape (n,)

    Returns
    -------
    result : dict
    """
    loss = -np.asarray(log_density, dtype=np.float64)
    bad = ~np.isfinite(loss)
    loss[bad] = np.inf  # a density without bound is no success either
    return {
        "mean": float(loss.mean()),
        "standard_error": float("nan") if bad.any() else float(loss.std(ddof=1) / np.sqrt(len(loss))),
        "median": float(np.median(loss)),
        "trimmed": float(trim_mean(loss, TRIMMED)),
        "n_test": len(loss),
        "n_not_finite": int(bad.sum()),
    }


def pack(log_density):
    """Log-densities of all rows as text, float32, for a record."""
    return base64.b64encode(zlib.compress(np.asarray(log_density, dtype="<f4").tobytes())).decode()


def unpack(text):
    """The array that :func:`pack` made, as float64."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f4").astype(np.float64)


def paired(ours, theirs):
    """Mean difference of two models' log-densities of the same rows, and its standard error, nats.

    Positive where ``ours`` is better.  A row of density 0 makes the difference infinite.
    """
    ours, theirs = (np.where(np.isnan(values), -np.inf, values) for values in (ours, theirs))
    with np.errstate(invalid="ignore"):
        # both zero: neither is better on this row
        difference = np.where(np.isneginf(ours) & np.isneginf(theirs), 0.0, ours - theirs)
    mean = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if np.isfinite(mean) else float("nan")
    return mean, error
