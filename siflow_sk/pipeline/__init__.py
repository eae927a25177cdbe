"""Preprocessing steps and a density, with the density in the units of X."""

from collections import Counter

import numpy as np
import pandas as pd
from sklearn.base import DensityMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from .. import _tensors
from .._compat import _BaseComposition, _check_sample_weight, _fit_context
from ..bases import SklearnDensity
from ..persistence import SaveMixin
from ..preprocessing import Preprocessor
from . import _steps

__all__ = ["DensityPipeline", "make_density_pipeline"]

_MAX_ROUNDS = 100  # of drawing again what is outside of the image of a step


class DensityPipeline(SaveMixin, DensityMixin, _BaseComposition):
    r"""Invertible steps, then a density estimator, with the density in the units of X.

    With :math:`z = T(x)` the composition of the steps and q the density fitted to z,

    .. math:: \log p(x) = \log q(T(x)) + \log\left|\det\frac{dz}{dx}\right| .

    scikit-learn's ``Pipeline`` leaves the second term out: its ``score_samples`` changes with the units, and
    a search over preprocessing prefers whatever shrinks the data.  Here scores of different steps can be
    compared.

    Parameters
    ----------
    steps : list of (str, estimator)
        Steps with a known Jacobian, then a density estimator with ``fit`` and ``score_samples`` (and
        ``sample``, to draw rows).  Clones are fitted.  ``"passthrough"`` leaves a step out.  Known are:

        - ``StandardScaler``, ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler`` (without ``clip``),
          ``PowerTransformer``, ``PCA`` that keeps all components, whitened or not;
        - ``QuantileTransformer``: the density is zero (``-inf``) beyond the values seen in ``fit``, and a
          column that repeats values is refused;
        - ``FunctionTransformer`` of nothing, of ``np.log``, ``log2``, ``log10``, ``log1p``, ``exp``,
          ``expm1``, ``sqrt``, ``cbrt``, ``sinh``, ``arcsinh``, ``arctanh``, or of any function declared in
          ``log_dets``;
        - the parts of :mod:`siflow_sk.preprocessing`;
        - ``ColumnTransformer`` that uses every column once, and ``Pipeline``, of the steps above;
        - any transformer with a method ``log_det(X)``, or declared in ``log_dets``.
    log_dets : dict, default=None
        Declared log-determinants: name of a step -> function of the step's input ``(n, d)`` that returns
        :math:`\log|\det dz/dx|` of every row, ``(n,)``, ``-inf`` for rows outside of the domain.  Steps
        inside others are named ``outer__inner``.  ``fit`` compares them with numerical differentiation.

    Attributes
    ----------
    steps_ : list of (str, estimator)
        The fitted steps, the density last.
    named_steps_ : Bunch
        The same by name.
    density_ : estimator
        The last of them.  Its own ``score_samples`` is in the units of its input.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.

    See Also
    --------
    make_density_pipeline : Names the steps by their types.

    Notes
    -----
    Where the image of the steps is not the whole space (``np.exp``; a power below 0 or above 2), the mass
    that q has outside is lost: ``score_samples`` is then too small by the logarithm of what is left, never
    too large, and ``sample`` draws again.

    Examples
    --------
    Whatever the units, the density is the same one; in Pipeline it would change by log(1000):

    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from sklearn.preprocessing import StandardScaler
    >>> from siflow_sk import make_density_pipeline
    >>> X = np.random.default_rng(0).normal(size=(500, 1))
    >>> metres = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(X)
    >>> kilometres = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(X / 1000)
    >>> bool(np.isclose(kilometres.score(X / 1000) - np.log(1000), metres.score(X)))
    True
    """

    _parameter_constraints = {"steps": [list], "log_dets": [dict, None]}

    def __init__(self, steps, *, log_dets=None):
        self.steps = steps
        self.log_dets = log_dets

    def get_params(self, deep=True):
        """Parameters of the pipeline and, if ``deep``, of its steps.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        params : dict
        """
        return self._get_params("steps", deep=deep)

    def set_params(self, **params):
        """Set parameters of the pipeline, steps by their names, and ``name__parameter`` of a step.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : DensityPipeline
        """
        return self._set_params("steps", **params)

    def _sk_visual_block_(self):
        return Pipeline(self.steps)._sk_visual_block_()

    # -- fitting ----------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit every step to the output of the one before.

        A fit that fails leaves the pipeline as it was.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Given to the density and to the steps whose ``fit`` takes weights; the other steps do without,
            which changes what they learn and not that the density is right.

        Returns
        -------
        self : DensityPipeline

        Raises
        ------
        TypeError
            A step without a known Jacobian, a last step that is no density estimator or takes no weights.
        ValueError
            A step that is not invertible as it is, a declared log-determinant that is not that of its step,
            or X as for :meth:`InterpolantFlow.fit`.
        """
        before = dict(self.__dict__)
        try:
            self._fit(X, sample_weight)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self

    def _fit(self, X, sample_weight):
        log_dets = self._check_steps()
        *steps, (last_name, last) = self.steps
        columns = X.columns if isinstance(X, pd.DataFrame) else None
        index = X.index if isinstance(X, pd.DataFrame) else None
        X = _tensors.check_table(self, X, reset=True, min_samples=2)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            if not has_fit_parameter(last, "sample_weight"):
                raise TypeError(f"Step {last_name!r}: {type(last).__name__}.fit takes no sample_weight.")
        self._columns = getattr(self, "feature_names_in_", None) if columns is None else columns
        self._dtype = X.dtype
        x = self._framed(X, index)
        self.steps_ = []
        for name, step in steps:
            fitted = "passthrough"
            if not _steps.is_passthrough(step):
                fitted = self._fit_step(step, x, sample_weight)
            _steps.refuse_fitted(fitted, name, x)
            _steps.check_declared(fitted, x, name, log_dets)
            self.steps_.append((name, fitted))
            x, inside, _ = _steps.push([(name, fitted)], x, log_dets)
            if sample_weight is not None:
                sample_weight = sample_weight[inside]
            if len(inside) < 2:
                raise ValueError(f"Step {name!r}: the rows of X are outside of its domain.")
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.density_ = clone(last).fit(x, None, **weights)
        self.steps_.append((last_name, self.density_))
        self._log_dets = log_dets
        self.named_steps_ = Bunch(**dict(self.steps_))

    @staticmethod
    def _fit_step(step, x, sample_weight):
        if isinstance(step, Preprocessor):
            weight = np.ones(len(x)) if sample_weight is None else sample_weight
            return clone(step).fit(_tensors.to_tensor(x), _tensors.to_tensor(weight / weight.sum()))
        if sample_weight is not None and has_fit_parameter(step, "sample_weight"):
            return clone(step).fit(x, None, sample_weight=sample_weight)
        return clone(step).fit(x, None)

    def _check_steps(self):
        """The declared log-determinants; raises on steps that cannot be used."""
        for item in self.steps or [None]:
            if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], str)):
                raise ValueError(
                    f"steps must be a list of pairs (name, estimator), the last one a density; got {item!r}."
                )
        names, estimators = zip(*self.steps, strict=True)
        self._validate_names(names)
        for name, step in self.steps:
            if isinstance(step, type):
                raise TypeError(f"Step {name!r}: {step.__name__} is a class; pass {step.__name__}().")
        last = estimators[-1]
        if not (hasattr(last, "fit") and hasattr(last, "score_samples")):
            raise TypeError(
                f"Step {names[-1]!r}: the last step must be a density estimator with fit and "
                "score_samples, such as "
                f"InterpolantFlow, GaussianMixture or KernelDensity; got {last!r}."
            )
        log_dets = {} if self.log_dets is None else dict(self.log_dets)
        paths = {path for name, step in self.steps[:-1] for path, _ in _steps.named_parts(step, name)}
        unknown = sorted(set(log_dets) - paths)
        if unknown:
            raise ValueError(f"log_dets: there is no step {unknown}; the steps are {sorted(paths)}.")
        for name, step in self.steps[:-1]:
            _steps.refuse(step, name, log_dets)
        return log_dets

    def _framed(self, X, index=None):
        """The table as the first step saw it in ``fit``: a frame if there are column names."""
        return X if self._columns is None else pd.DataFrame(X, columns=self._columns, index=index)

    # -- use --------------------------------------------------------------------------------------------

    def score_samples(self, X):
        """Log-density of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of X; ``-inf`` where a step has no inverse (a negative number under a logarithm, a
            value beyond those that QuantileTransformer saw).
        """
        check_is_fitted(self)
        index = X.index if isinstance(X, pd.DataFrame) else None
        X = _tensors.check_table(self, X, reset=False)
        z, inside, values = _steps.push(self.steps_[:-1], self._framed(X, index), self._log_dets)
        if len(inside):
            values[inside] += self.density_.score_samples(z)
        return values

    def score(self, X, y=None, sample_weight=None):
        """Mean log-density of the rows, the figure that ``GridSearchCV`` maximises.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Weighted mean of ``score_samples(X)``, in nats.
        """
        values = self.score_samples(X)
        if sample_weight is None:
            return float(np.mean(values))
        weight = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(values, weights=weight))

    def sample(self, n_samples=1, random_state=None):
        """Draw new rows in the units of X.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame if ``fit`` saw one
            A frame has the columns of that one.

        Raises
        ------
        TypeError
            The density has no ``sample``.
        ValueError
            A step has no inverse, or nearly nothing that the density draws is in the image of the steps.
        """
        check_is_fitted(self)
        if not hasattr(self.density_, "sample"):
            raise TypeError(
                f"{type(self.density_).__name__} has no method sample, so that no rows can be drawn."
            )
        out = _tensors.check_n_samples(n_samples, self.n_features_in_).astype(self._dtype, copy=False)
        source = SklearnDensity(self.density_)
        source.estimator_ = self.density_
        generator = _tensors.make_generator(_tensors.draw_seed(random_state))
        done = 0
        for _ in range(_MAX_ROUNDS):
            rows = _tensors.to_array(source.sample(len(out) - done, generator))
            for name, step in reversed(self.steps_[:-1]):
                rows = _steps.inverse(step, rows, name)
            rows = rows[np.isfinite(rows).all(axis=1)]
            out[done : done + len(rows)] = rows
            done += len(rows)
            if done == len(out):
                return self._framed(out)
        raise ValueError(
            f"only {done} of {len(out)} rows after {_MAX_ROUNDS} draws: the density has nearly all of its "
            "mass "
            "outside of the image of the steps; check inverse_func, or choose other steps."
        )


def make_density_pipeline(*steps, log_dets=None):
    """A :class:`DensityPipeline` whose steps are named by their types in lower case.

    Parameters
    ----------
    *steps : estimators
        Steps with a known Jacobian, then a density estimator.
    log_dets : dict, default=None
        Declared log-determinants by name, see :class:`DensityPipeline`.

    Returns
    -------
    pipeline : DensityPipeline

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from siflow_sk import InterpolantFlow, make_density_pipeline
    >>> [name for name, _ in make_density_pipeline(StandardScaler(), InterpolantFlow()).steps]
    ['standardscaler', 'interpolantflow']
    """
    names = [step if isinstance(step, str) else type(step).__name__.lower() for step in steps]
    total, seen = Counter(names), Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        if total[name] > 1:
            names[i] = f"{name}-{seen[name]}"
    return DensityPipeline(list(zip(names, steps, strict=True)), log_dets=log_dets)
