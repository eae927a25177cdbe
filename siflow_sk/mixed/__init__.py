"""Tables with bounds, angles, whole numbers, categories: densities here, probabilities there, in one."""

import warnings
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.utils.validation import check_is_fitted

from .. import _tensors
from .._compat import HasMethods, Interval, StrOptions, _check_sample_weight, _fit_context
from ..bases import SklearnDensity
from ..exceptions import DataWarning
from ..flow import InterpolantFlow
from ..persistence import SaveMixin
from ._columns import Column
from ._kinds import check_frame, find_kinds

__all__ = ["MixedDensity"]

_MAX_ROUNDS = 100  # of drawing again what falls beyond the first or last level


class MixedDensity(SaveMixin, DensityMixin, BaseEstimator):
    r"""A density for tables with columns that have bounds, of angles, whole numbers, a lattice, categories.

    Whole numbers and categories have probabilities, not densities.  Each value gets a cell, one step wide;
    ``fit`` spreads the rows uniformly over their cells and fits a density q to that (dequantisation).  With x
    the real columns and c the others,

    .. math:: p(x, c) = \int_{\mathrm{cell}(c)} q(x, v)\,dv
              = |\mathrm{cell}|\; E_{u}\, q(x, c + u) ,

    a density in x (units of X) and a probability in c: with respect to Lebesgue measure times counting
    measure. The mean over u is taken over ``n_draws`` points, the same ones for every row.

    A column with values above a low end a, below a high end b, or between the two, is real; q sees its
    logarithm or logit, and the density is in the units of X:

    .. math:: y = \log(x - a), \quad -\log(b - x), \quad \log\frac{x - a}{b - x}, \qquad
              \log p(x) = \log q(y) + \log\left|\frac{dy}{dx}\right| .

    Parameters
    ----------
    estimator : density estimator, default=None
        Anything with ``fit`` and ``score_samples`` (and ``sample``, to draw rows); a clone is fitted.
        ``None``: ``InterpolantFlow(random_state=random_state)``.  Preprocessing belongs inside of it.
    kinds : "auto" or dict, default="auto"
        Name (or index, for arrays) of a column -> one of

        - ``"real"``, ``"integer"``, ``"categorical"``, ``"constant"``;
        - ``"positive"``, or the two ends of an interval in the units of X, such as ``(0, 100)``; one of them
          may be infinite.  No value may lie on an end;
        - ``"interval"``: the ends are guessed, with a :class:`~siflow_sk.exceptions.DataWarning`, one mean
          distance of neighbouring values beyond the smallest and the largest;
        - ``("periodic", period)``, for an angle: values that differ by whole periods are the same, the
          density integrates to 1 over one.  An :class:`~siflow_sk.InterpolantFlow` is told by its parameter
          ``periodic``, no other ``estimator`` is;
        - a number, the step of a lattice such as 0.1.

        Columns that are not listed, or all of them with ``"auto"``: dtypes category, bool, string and object
        are categorical; integer dtypes are integer; a float column of whole numbers that repeat is taken for
        integer with a :class:`~siflow_sk.exceptions.DataWarning`; a column with one value is constant; others
        are real.
    n_draws : int, default=16
        Points per row in ``score_samples``; the cost is that many times that of ``estimator``.  The mean of
        the probability is unbiased, that of its logarithm a lower bound that rises with ``n_draws``.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise, the points and the default estimator.

    Attributes
    ----------
    kinds_ : dict
        Column -> kind, as used; guessed ends are there.
    levels_ : dict
        Categorical column -> list of its levels, in order.
    estimator_ : estimator
        The density of the spread rows; constant columns are left out.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.

    Notes
    -----
    A density smooths over the edges of cells, so that some probability leaks into cells that no row can have
    (a count of -1): probabilities of all possible values add up to a little less than 1.
    :meth:`level_log_proba` divides by their sum.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from siflow_sk import InterpolantFlow, MixedDensity
    >>> from siflow_sk.velocities import MLP
    >>> rng = np.random.default_rng(0)
    >>> kind = rng.choice(["cat", "dog"], size=300)
    >>> table = pd.DataFrame({"kind": kind, "kg": rng.normal(np.where(kind == "cat", 4.0, 20.0), 2.0)})
    >>> flow = InterpolantFlow(velocity=MLP(width=32), max_iter=50, polish=0, random_state=0)
    >>> density = MixedDensity(flow, random_state=0).fit(table)
    >>> density.kinds_
    {'kind': 'categorical', 'kg': 'real'}
    >>> density.level_log_proba(table[:5], "kind").shape
    (5, 2)
    >>> density.sample(3, random_state=0).columns.tolist()
    ['kind', 'kg']
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "kinds": [dict, StrOptions({"auto"})],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, kinds="auto", n_draws=16, random_state=None):
        self.estimator = estimator
        self.kinds = kinds
        self.n_draws = n_draws
        self.random_state = random_state

    # -- fitting ----------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Find the kinds of the columns, spread the rows over their cells, fit the density.

        A fit that fails leaves the estimator as it was.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Arrays hold numbers; categories need a DataFrame.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, for an ``estimator`` that takes them; rows of weight zero are left out.  A row has one
            place in its cell, whatever its weight.

        Returns
        -------
        self : MixedDensity

        Raises
        ------
        TypeError
            Weights were given, or a column is periodic, and ``estimator`` takes none; dates.
        ValueError
            Missing values, a kind that is none or that a column cannot have, a period that is not a finite
            number > 0, all columns constant.
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
        seed = _tensors.draw_seed(self.random_state)
        frame = check_frame(self, X, reset=True)
        estimator = InterpolantFlow(random_state=seed) if self.estimator is None else self.estimator
        weights = {}
        if sample_weight is not None:
            weight = _tensors.weights_for(estimator, sample_weight, len(frame))
            frame, weights["sample_weight"] = frame[weight > 0], weight[weight > 0]
        self._was_frame = isinstance(X, pd.DataFrame)
        kinds, guesses = find_kinds(frame, self.kinds)
        for guess in guesses:
            warnings.warn(f"{guess} with kinds={{column: kind}}.", DataWarning, stacklevel=4)
        self.kinds_ = kinds
        self._columns = [Column(frame.iloc[:, j], name, kind) for j, (name, kind) in enumerate(kinds.items())]
        self.levels_ = {c.name: list(c.levels) for c in self._columns if c.kind == "categorical"}
        values, _, _ = self._encode(frame)
        if not values.shape[1]:
            raise ValueError("all columns are constant: there is no density to estimate.")
        active = [c for c in self._columns if c.kind != "constant"]
        self._width = np.array([c.width for c in active])
        periods = {j: c.turn[1] for j, c in enumerate(active) if c.kind == "periodic"}
        estimator = _with_periods(clone(estimator), periods, [c.name for c in active])
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, size=values.shape)
        self.estimator_ = estimator.fit(values + noise * self._width, None, **weights)
        lattice = self._width > 0
        self._points = np.zeros((self.n_draws if lattice.any() else 1, len(lattice)))
        if lattice.any():
            sobol = torch.quasirandom.SobolEngine(int(lattice.sum()), scramble=True, seed=seed)
            points = sobol.draw(self.n_draws, dtype=torch.float64)
            self._points[:, lattice] = (_tensors.to_array(points) - 0.5) * self._width[lattice]

    def _encode(self, frame):
        """Numbers for every column that is not constant, log-derivative of each row, which are possible."""
        possible, log_det = np.ones(len(frame), dtype=bool), np.zeros(len(frame))
        values = []
        for j, column in enumerate(self._columns):
            value, log_slope, known = column.encode(frame.iloc[:, j])
            possible &= known
            log_det += log_slope
            if column.kind != "constant":
                values.append(value)
        return np.column_stack(values) if values else np.empty((len(frame), 0)), log_det, possible

    # -- use --------------------------------------------------------------------------------------------

    def score_samples(self, X, return_error=False):
        """Log-density of the real columns and log-probability of the others, in one number per row.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        return_error : bool, default=False
            Also return the standard error from the finite number of draws, in nats, as if they were
            independent (they are scrambled Sobol points, whose error is smaller).

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            ``-inf`` for what the model holds to be impossible: a level that ``fit`` did not see, a value off
            the lattice, on or beyond an end, another value in a constant column.
        error : ndarray of shape (n_samples,)
            Only if ``return_error``.
        """
        check_is_fitted(self)
        values, log_det, possible = self._encode(check_frame(self, X, reset=False))
        result, error = np.full(len(values), -np.inf), np.zeros(len(values))
        if possible.any():
            found = np.stack([self.estimator_.score_samples(values[possible] + u) for u in self._points])
            k = len(found)
            mean = np.logaddexp.reduce(found, axis=0) - np.log(k)
            result[possible] = mean + np.log(self._width[self._width > 0]).sum() + log_det[possible]
            with np.errstate(invalid="ignore"):
                ratio = np.exp(found - mean)
            error[possible] = np.nan_to_num(ratio.std(axis=0, ddof=1) / np.sqrt(k)) if k > 1 else 0.0
        return (result, error) if return_error else result

    def score(self, X, y=None, sample_weight=None):
        """Mean of ``score_samples``, the figure that ``GridSearchCV`` maximises.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        values = self.score_samples(X)
        if sample_weight is None:
            return float(np.mean(values))
        weight = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(values, weights=weight))

    def level_log_proba(self, X, column):
        """Logarithm of the probability of each level of a categorical column, given the other columns.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_features)
            What stands in ``column`` is not looked at.
        column : str
            A categorical column.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_levels)
            In the order of ``levels_[column]``; the probabilities of a row sum to 1.

        Raises
        ------
        ValueError
            The column is not categorical.
        """
        check_is_fitted(self)
        if column not in self.levels_:
            raise ValueError(f"{column!r} is not a categorical column; those are {list(self.levels_)}.")
        scores = []
        for level in self.levels_[column]:
            changed = X.copy()
            changed[column] = pd.Series([level] * len(X), index=X.index)
            scores.append(self.score_samples(changed))
        scores = np.column_stack(scores)
        return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)

    def sample(self, n_samples=1, random_state=None):
        """Draw new rows, with the columns, dtypes and levels that ``fit`` saw.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call.

        Returns
        -------
        X : DataFrame or ndarray of shape (n_samples, n_features)
            As ``fit`` saw.

        Raises
        ------
        TypeError
            The density has no ``sample``.
        """
        check_is_fitted(self)
        if not hasattr(self.estimator_, "sample"):
            raise TypeError(
                f"{type(self.estimator_).__name__} has no method sample, so no rows can be drawn."
            )
        _tensors.check_n_samples(n_samples, self.n_features_in_)
        source = SklearnDensity(self.estimator_)
        source.estimator_ = self.estimator_
        generator = _tensors.make_generator(_tensors.draw_seed(random_state))
        kept, active = [], [c for c in self._columns if c.kind != "constant"]
        missing = n_samples
        for _ in range(_MAX_ROUNDS):
            rows = _tensors.to_array(source.sample(missing, generator))
            inside = np.all([c.inside(rows[:, j]) for j, c in enumerate(active)], axis=0)
            kept.append(rows[inside])
            missing -= int(inside.sum())
            if not missing:
                break
        else:
            raise ValueError("the density has nearly all of its mass beyond the levels that fit saw.")
        rows = iter(np.concatenate(kept).T)
        columns = [c.decode(n_samples if c.kind == "constant" else next(rows)) for c in self._columns]
        if not self._was_frame:
            return np.column_stack(columns)
        frame = pd.concat(columns, axis=1)
        frame.columns = [c.name for c in self._columns]
        return frame


def _with_periods(estimator, periods, names):
    """The estimator, told which of its columns are periodic."""
    if not periods:
        return estimator
    parameters = estimator.get_params(deep=False)
    if "periodic" not in parameters:
        raise TypeError(
            f"{type(estimator).__name__} has no parameter periodic, and kinds says that "
            f"{[names[j] for j in periods]} are; take an InterpolantFlow as estimator, or 'real' columns."
        )
    if parameters["periodic"]:
        raise ValueError(
            f"estimator has periodic={parameters['periodic']!r}; say in kinds alone which columns are."
        )
    return estimator.set_params(periodic=periods)
