"""Between rows of a table and points of the flow: what every fitted estimator with a preprocessor needs."""

import math
import warnings

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .. import _tensors
from ..exceptions import SolverWarning


class RowsMixin:
    """Of an estimator with ``preprocessor_``, ``device_`` and what ``fit`` noted of constant columns."""

    _spread = 0.0  # of files from before it was noted

    def _check(self, X):
        check_is_fitted(self)
        return _tensors.check_table(self, X, reset=False)

    def _to_network(self, z):
        return z.to(self.device_, self._network_dtype)

    def _chunks(self, n_rows, n_features):
        return _tensors.row_chunks(n_rows, n_features, self.device_)

    def _on_device(self):
        """The preprocessor, where the network is if it can go there, and its device."""
        if self.device_ == "cpu" or not hasattr(self.preprocessor_, "copy_to"):
            return self.preprocessor_, "cpu"
        return self.preprocessor_.copy_to(self.device_), self.device_

    def _forward(self, X):
        """Latent points, log-determinant of the preprocessing, rows outside of the support, rows too far.

        Too far is what the dtype cannot hold; such a row goes through the flow as 0, and the caller says
        what becomes of it.
        """
        X = _tensors.within_turns(X, getattr(self, "periodic_", None))  # older files have none
        outside = _tensors.off_constant(X, self._active, self._constant, self._spread)
        preprocessor, device = self._on_device()
        z, log_det = preprocessor.forward(_tensors.to_tensor(X[:, self._active]).to(device))
        far = ~torch.isfinite(self._to_network(z)).all(1).to(device)
        z = self._to_network(torch.where(far[:, None], 0.0, z))
        return z, log_det.cpu(), _tensors.to_tensor(outside, torch.bool), far.cpu()

    def _to_rows(self, z):
        """Rows of X from latent points of any time."""
        preprocessor, device = self._on_device()
        x = preprocessor.inverse(z.to(device, torch.float64)).cpu()
        out = np.tile(self._constant, (len(x), 1))
        out[:, self._active] = _tensors.to_array(x)
        return out

    def _report_unsolved(self, bad):
        if bad.any():
            shown = ", ".join(map(str, np.flatnonzero(bad)[:10]))
            warnings.warn(
                f"{int(bad.sum())} of {len(bad)} rows could not be solved and are NaN: rows {shown}"
                f"{' ...' if bad.sum() > 10 else ''}. Try solver='dopri5' or a larger tol.",
                SolverWarning,
                stacklevel=3,
            )


class KnownDensity:
    """The density of rows that another estimator knows, as one of latent points."""

    def __init__(self, estimator, known):
        self.estimator, self.known = estimator, known

    def log_prob(self, z):
        x = self.estimator._to_rows(z)
        active = _tensors.to_tensor(x[:, self.estimator._active])
        log_det = self.estimator.preprocessor_.forward(active)[1]
        return (_tensors.to_tensor(self.known.score_samples(x)) - log_det).to(z)


def nan_where(rows, values):
    """NaN in ``rows``, a mask on the host."""
    return torch.where(rows[:, None].to(values.device), math.nan, values)
