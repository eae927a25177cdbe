"""Classes by their densities: Bayes' rule."""

import warnings
from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from . import _tensors
from ._compat import HasMethods, Interval, _check_sample_weight, _fit_context
from .exceptions import DataWarning
from .flow import InterpolantFlow
from .persistence import SaveMixin, own

__all__ = ["InterpolantClassifier"]

_CONSTANT = (
    1e-6  # a column whose spread in a class is below this share of that in the others is constant there
)
_SMALLEST = 1e-3  # the spread given to it, at least, as a share of the column's standard deviation


class InterpolantClassifier(SaveMixin, ClassifierMixin, BaseEstimator):
    r"""One density per class, and Bayes' rule.

    .. math:: P(y = k \mid x) = \frac{\pi_k\, p_k(x)}{\sum_l \pi_l\, p_l(x)}

    Probabilities are as good as the densities: no shape of the boundary is assumed, other class frequencies
    are a change of ``priors``, and :meth:`score_samples` says whether a row looks like any class at all.

    Parameters
    ----------
    estimator : density estimator, default=None
        Anything with ``fit`` and ``score_samples``; a clone is fitted to the rows of each class.  ``None``:
        ``InterpolantFlow(random_state=random_state)``.
    priors : array-like of shape (n_classes,), default=None
        Probabilities of the classes, in the order of ``classes_``; ``None``: their (weighted) shares in
        ``fit``.
    min_samples : int, default=20
        A class with fewer distinct rows gets a normal density about its mean with the covariance that all
        classes have about their means, shrunk towards its diagonal, and a
        :class:`~siflow_sk.exceptions.DataWarning` names it.
    random_state : int, RandomState instance or None, default=None
        Seed of the default estimator; a given ``estimator`` has its own.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in order; only those with a positive weight.
    class_prior_ : ndarray of shape (n_classes,)
    estimators_ : list
        The fitted density of each class; None where there is a normal density instead.
    tiny_classes_ : ndarray
        The labels of those.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.

    Notes
    -----
    Columns that are constant in all rows say nothing and are left out.  A column that is constant in one
    class and not in another would have an atom in one and a density in the other, which cannot be compared;
    in that class the column gets a normal density about its value, as wide as the column is about the class
    means.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from siflow_sk import InterpolantClassifier, InterpolantFlow
    >>> X, y = load_iris(return_X_y=True)
    >>> from siflow_sk.velocities import MLP
    >>> flow = InterpolantFlow(velocity=MLP(width=32), max_iter=50, random_state=0)
    >>> classifier = InterpolantClassifier(flow).fit(X[::2], y[::2])
    >>> classifier.predict_proba(X[1:4:2]).shape
    (2, 3)
    >>> classifier.score(X[1::2], y[1::2]) > 0.9
    True
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "priors": ["array-like", None],
        "min_samples": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, priors=None, min_samples=20, random_state=None):
        self.estimator = estimator
        self.priors = priors
        self.min_samples = min_samples
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Fit a density to the rows of each class.

        A fit that fails leaves the classifier as it was.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights for the densities and the class shares; a whole number means the same as repeating the
            row.

        Returns
        -------
        self : InterpolantClassifier

        Raises
        ------
        TypeError
            Weights were given and ``estimator`` takes none.
        ValueError
            One class only; labels that are missing, continuous or not as many as rows; ``priors`` that are
            not probabilities of the classes; X as for :meth:`InterpolantFlow.fit`.
        """
        before = dict(self.__dict__)
        try:
            self._fit(X, y, sample_weight)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _fit(self, X, y, sample_weight):
        estimator = (
            InterpolantFlow(random_state=self.random_state) if self.estimator is None else self.estimator
        )
        if sample_weight is not None and not has_fit_parameter(estimator, "sample_weight"):
            raise TypeError(f"{type(estimator).__name__}.fit takes no sample_weight.")
        X, y = _tensors.check_table(self, X, y=y, reset=True, min_samples=2)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"InterpolantClassifier needs rows of at least two classes; y has the class(es) "
                f"{self.classes_.tolist()} with a positive weight."
            )
        self.class_prior_ = self._prior(np.bincount(label, weight))
        self._used = np.ptp(X, axis=0) > 0
        self._pooled = _Pooled(X[:, self._used].astype(np.float64), label, weight)
        self.estimators_, self._constants, tiny = [], [], []
        for k, name in enumerate(self.classes_.tolist()):
            rows, w = X[label == k], weight[label == k]
            varies = self._used.copy()
            varies[self._used] = rows[:, self._used].std(axis=0) > _CONSTANT * self._pooled.std
            self._constants.append(varies)
            if len(np.unique(rows, axis=0)) < self.min_samples or not varies.any():
                tiny.append(k)
                self.estimators_.append(None)
                continue
            weights = {} if sample_weight is None else {"sample_weight": w}
            try:
                self.estimators_.append(clone(estimator).fit(self._framed(rows, varies), None, **weights))
            except Exception as error:
                error.add_note(f"while fitting the density of class {name!r}")
                raise
        self.tiny_classes_ = self.classes_[tiny]
        if tiny:
            warnings.warn(
                f"class(es) {self.tiny_classes_.tolist()} have fewer than min_samples={self.min_samples} "
                "distinct "
                "rows: a normal density with the covariance of all classes is used for them.",
                DataWarning,
                stacklevel=3,
            )

    def _prior(self, shares):
        if self.priors is None:
            return shares / shares.sum()
        priors = np.asarray(self.priors, dtype=np.float64)
        if priors.shape != self.classes_.shape or not (priors >= 0).all() or abs(priors.sum() - 1.0) > 1e-6:
            raise ValueError(
                f"priors must be probabilities, summing to 1, of the {len(self.classes_)} classes "
                f"{self.classes_.tolist()}; got {self.priors!r}."
            )
        return priors / priors.sum()

    def _framed(self, X, columns):
        """Some columns, as a frame if ``fit`` saw names."""
        names = getattr(self, "feature_names_in_", None)
        return X[:, columns] if names is None else pd.DataFrame(X[:, columns], columns=names[columns])

    def _log_joint(self, X):
        """log(prior) + log-density of every row and class, ``(n, k)``."""
        check_is_fitted(self)
        X = _tensors.check_table(self, X, reset=False)
        rows = X[:, self._used].astype(np.float64)
        with np.errstate(divide="ignore"):
            joint = np.tile(np.log(self.class_prior_), (len(X), 1))
        for k, (density, varies) in enumerate(zip(self.estimators_, self._constants, strict=True)):
            if density is None:
                joint[:, k] += self._pooled.log_density(rows, k)
            else:
                joint[:, k] += density.score_samples(self._framed(X, varies))
                joint[:, k] += self._pooled.log_marginals(rows, k, ~varies[self._used])
        return np.where(np.isnan(joint), -np.inf, joint)

    # -- use --------------------------------------------------------------------------------------------

    def score_samples(self, X):
        """Log-density of every row, whatever its class: low where a row looks like none of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            The logarithm of the sum over the classes of prior times density, without the columns that are
            constant in all rows.
            A class whose density could not be solved at a row, which a
            :class:`~siflow_sk.exceptions.SolverWarning` names, counts there as if its density were zero.
        """
        return np.logaddexp.reduce(self._log_joint(X), axis=1)

    def predict_log_proba(self, X):
        """Logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``; the priors for a row that has density zero in all classes.
        """
        joint = self._log_joint(X)
        total = np.logaddexp.reduce(joint, axis=1)
        nowhere = np.isneginf(total)
        with np.errstate(divide="ignore"):
            joint[nowhere], total[nowhere] = np.log(self.class_prior_), 0.0
        return joint - total[:, None]

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X):
        """The most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]


@own
class _Pooled:
    """Means of the classes, and what all classes share: the covariance about the means."""

    def __init__(self, X, label, weight):
        n_classes, d = label.max() + 1, X.shape[1]
        share = weight / weight.sum()
        self.mean = np.zeros((n_classes, d))
        np.add.at(self.mean, label, X * weight[:, None])
        self.mean /= np.bincount(label, weight)[:, None]
        centred = X - self.mean[label]
        everywhere = np.sqrt(share @ (X - share @ X) ** 2)
        self.std = np.maximum(np.sqrt(share @ centred**2), _SMALLEST * everywhere)
        z = centred / self.std
        whole = np.array_equal(weight, np.rint(weight))
        count = weight.sum() if whole else len(weight)
        keep = count / (count + d)  # towards no correlation where rows are few
        self.factor = np.linalg.cholesky(keep * (z * share[:, None]).T @ z + (1.0 - keep) * np.eye(d))

    def log_density(self, X, k):
        """Of the normal density about the mean of class k, ``(n,)``."""
        z = np.linalg.solve(self.factor, ((X - self.mean[k]) / self.std).T)
        log_det = np.log(self.std).sum() + np.log(np.diag(self.factor)).sum()
        return -0.5 * (z**2).sum(axis=0) - log_det - 0.5 * X.shape[1] * np.log(2.0 * np.pi)

    def log_marginals(self, X, k, columns):
        """Of independent normal columns about the mean of class k, summed over ``columns``, ``(n,)``."""
        z = ((X - self.mean[k]) / self.std)[:, columns]
        return -(0.5 * z**2 + np.log(self.std[columns]) + 0.5 * np.log(2.0 * np.pi)).sum(axis=1)
