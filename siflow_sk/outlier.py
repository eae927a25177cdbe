"""Outliers: rows to which a density gives little."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from ._compat import HasMethods, Interval, _check_sample_weight, _fit_context
from .flow import InterpolantFlow
from .persistence import SaveMixin

__all__ = ["InterpolantOutlierDetector"]


class InterpolantOutlierDetector(SaveMixin, OutlierMixin, BaseEstimator):
    r"""Rows of low density are outliers.

    A density estimator is fitted; the share ``contamination`` of its training rows with the lowest
    log-density lies below ``offset_``, and so does what is predicted to be an outlier.

    Parameters
    ----------
    estimator : density estimator, default=None
        Anything with ``fit`` and ``score_samples``, larger for more ordinary rows: an
        :class:`~siflow_sk.InterpolantFlow`, a :class:`~siflow_sk.DensityPipeline`, a mixture.  A clone is
        fitted.  ``None``: ``InterpolantFlow(random_state=random_state)``.
    contamination : float, default=0.1
        Share of the training rows taken for outliers, in (0, 0.5].
    random_state : int, RandomState instance or None, default=None
        Seed of the default estimator; a given ``estimator`` has its own.

    Attributes
    ----------
    estimator_ : estimator
        The fitted density.
    offset_ : float
        The log-density, in nats, that separates outliers from the rest.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.

    Notes
    -----
    The rows that a flexible density was trained on look a little more ordinary to it than new rows do: among
    new rows without outliers somewhat more than ``contamination`` are flagged.  A threshold for new rows is
    the quantile of ``score_samples`` of rows that were kept aside.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow, InterpolantOutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> flow = InterpolantFlow(max_iter=50, polish=0, random_state=0)
    >>> detector = InterpolantOutlierDetector(flow, contamination=0.05).fit(X)
    >>> detector.predict([[0.0, 0.0], [6.0, -6.0]])
    array([ 1, -1])
    >>> int((detector.predict(X) == -1).sum())
    15
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, contamination=0.1, random_state=None):
        self.estimator = estimator
        self.contamination = contamination
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the density and find the threshold.

        A fit that fails leaves the detector as it was.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights for the density and for the share of outliers; a whole number means the same as repeating
            the row.

        Returns
        -------
        self : InterpolantOutlierDetector

        Raises
        ------
        TypeError
            Weights were given and ``estimator`` takes none.
        ValueError
            X as for :meth:`InterpolantFlow.fit`.
        """
        estimator = (
            InterpolantFlow(random_state=self.random_state) if self.estimator is None else self.estimator
        )
        weights = {}
        if sample_weight is not None:
            if not has_fit_parameter(estimator, "sample_weight"):
                raise TypeError(f"{type(estimator).__name__}.fit takes no sample_weight.")
            weights["sample_weight"] = sample_weight
        fitted = clone(estimator).fit(X, None, **weights)
        scores = fitted.score_samples(X)
        weight = _check_sample_weight(sample_weight, scores, dtype=np.float64, ensure_non_negative=True)
        self.offset_ = _threshold(scores, weight, self.contamination)
        self.estimator_ = fitted
        self.n_features_in_ = fitted.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(fitted, "feature_names_in_"):
            self.feature_names_in_ = fitted.feature_names_in_
        return self

    def score_samples(self, X):
        """Log-density of every row: the lower, the odder.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            In nats and units of X for the estimators of this package.
        """
        check_is_fitted(self)
        return self.estimator_.score_samples(X)

    def decision_function(self, X):
        """``score_samples(X) - offset_``: negative for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            ``-inf`` for rows of density zero.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """1 for ordinary rows, -1 for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)


def _threshold(scores, weight, share):
    """The log-density with ``share`` of the weight below it; half way where that falls between two rows."""
    keep = weight > 0
    order = np.argsort(scores[keep], kind="stable")
    scores, below = scores[keep][order], np.cumsum(weight[keep][order])
    target = share * below[-1]
    out = int(np.searchsorted(below, target * (1.0 + 1e-12), side="right"))  # rows that are outliers
    exact = out > 0 and below[out - 1] >= target * (1.0 - 1e-12)
    if exact and np.isfinite(scores[out - 1]):
        return float(0.5 * (scores[out - 1] + scores[out]))
    return float(scores[out])
