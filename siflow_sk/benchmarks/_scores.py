"""What is told of the log-densities of the test rows."""

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
