"""InterpolantImputer: a density fitted to rows with missing values, and what it says of them."""

import warnings
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, DensityMixin, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from .. import _tensors
from .._compat import HasMethods, Interval, _check_sample_weight, _fit_context
from ..exceptions import DataWarning
from ..flow import InterpolantFlow
from ..mixed import MixedDensity
from ..mixed._kinds import check_frame, find_kinds
from ..persistence import SaveMixin
from ._proposal import Proposal
from ._tables import Mixed, Numbers, categories

__all__ = ["InterpolantImputer"]

_COMPLETE_ROWS = 10  # for each column: so many are enough to start from
_GAUSSIAN_ROUNDS = 10  # of drawing the missing values from one Gaussian, to start with
_AT_ONCE = 2**15  # candidates that are scored together


class InterpolantImputer(SaveMixin, OneToOneFeatureMixin, TransformerMixin, DensityMixin, BaseEstimator):
    r"""A density fitted to rows with missing values: the marginal of what is there, draws of what is not.

    Missing is NaN.  ``fit`` fills the gaps with draws, fits a density q to the filled table, draws what was
    missing anew from q given the rest of each row, and fits again: ``n_rounds`` fits of one density, a
    stochastic EM algorithm [1]_.  The first fit is to the rows without gaps, where these are ten for each
    column or more, have every level and no constant column; else the first draws come from a Gaussian of the
    columns made normal one by one.

    With o the observed and m the missing columns of a row,

    .. math:: q(x_o) = \int q(x_o, x_m)\,dx_m \approx \frac1K \sum_{k=1}^K w_k, \qquad
              w_k = \frac{q(x_o, x_m^k)}{h(x_m^k \mid x_o)}, \quad x_m^k \sim h(\cdot \mid x_o),

    where h is a Gaussian mixture of the columns made normal one by one, whose conditional densities are
    known in closed form.  The exact density q corrects it: the mean is unbiased whatever h is, the missing
    values are drawn from the candidates with probabilities in proportion to the weights (importance
    resampling), and their mean is the weighted one.

    All densities are in nats and in the units of X.

    Categories, truth values, whole numbers take part where ``estimator`` is a
    :class:`~siflow_sk.MixedDensity`: a value c is a cell of its density q of spread rows, and what is
    observed of it is the cell,

    .. math:: p(x_o, c_o) = \int_{\mathrm{cell}(c_o)} \int q(x_o, v_o, x_m, v_m)\,dx_m\,dv_m\,dv_o ,

    with the integral over missing :math:`v_m` taken over the cells of all levels that ``fit`` saw.  Each
    candidate is a place in the observed cells and numbers for what is missing, in cells of their own.

    Parameters
    ----------
    estimator : density estimator, default=None
        Anything with ``fit`` and ``score_samples``; clones are fitted.  A :class:`~siflow_sk.MixedDensity`
        says by its ``kinds`` how columns are taken.  ``None``:
        ``InterpolantFlow(random_state=random_state)``, for a DataFrame with text, truth values or categories
        ``MixedDensity(random_state=random_state)``.
    n_rounds : int, default=2
        Fits of the density.  One is enough, and done, where nothing is missing.
    n_points : int, default=32
        Candidates for every incomplete row, K.  Drawing, filling and scoring cost that many times a
        ``score_samples`` of ``estimator``.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws of ``fit``, of the points for ``transform`` and ``score_samples``, which are the
        same for every row, and of the default estimator.

    Attributes
    ----------
    estimator_ : estimator
        The density of complete rows; constant columns are left out.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.

    See Also
    --------
    sklearn.impute.MissingIndicator : Columns that say what was missing.

    Notes
    -----
    Values must be missing at random: whether one is missing may depend on what is observed in its row, not
    on the value itself [1]_.  Nothing in the data can tell.

    ``transform`` gives the mean of each missing value given the rest of its row, the guess with the smallest
    squared error; of a whole number that mean rounded, of a category the most probable level, of an angle the
    mean direction.  A table of means has too little spread and too much correlation: for anything but a guess
    of single values take several tables from :meth:`impute`.

    The more values of a row are missing, and the less the candidates look like the density, the fewer
    candidates carry weight.  ``score_samples(X, return_error=True)`` tells for every row; raise ``n_points``
    where the error is too large.

    References
    ----------
    .. [1] R. J. A. Little, D. B. Rubin, "Statistical Analysis with Missing Data", 3rd ed., Wiley, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow, InterpolantImputer
    >>> from siflow_sk.velocities import MLP
    >>> rng = np.random.default_rng(0)
    >>> X = rng.multivariate_normal([0.0, 5.0], [[1.0, 0.9], [0.9, 1.0]], size=300)
    >>> X[rng.random(X.shape) < 0.2] = np.nan
    >>> flow = InterpolantFlow(velocity=MLP(width=32), max_iter=100, polish=50, random_state=0)
    >>> imputer = InterpolantImputer(flow, random_state=0).fit(X)
    >>> imputer.transform([[2.0, np.nan]]).round()
    array([[2., 7.]])
    >>> imputer.impute([[2.0, np.nan]], n_draws=5, random_state=0).shape
    (1, 5, 2)
    >>> imputer.score_samples([[2.0, np.nan], [2.0, 7.0]]).shape
    (2,)
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_samples"]), None],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "n_points": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, n_rounds=2, n_points=32, random_state=None):
        self.estimator = estimator
        self.n_rounds = n_rounds
        self.n_points = n_points
        self.random_state = random_state

    # -- fitting ----------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the density to complete and incomplete rows.

        A fit that fails leaves the imputer as it was.  Rows without any value are left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN is missing.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, for an ``estimator`` that takes them; rows of weight zero are left out.  The gaps of a
            row are filled once in each round, whatever its weight.

        Returns
        -------
        self : InterpolantImputer

        Raises
        ------
        ValueError
            A column without any value, all columns constant, infinity, fewer than two rows with a value;
            columns of categories, truth values or text where ``estimator`` takes numbers; an ``estimator``
            with ``periodic`` columns that is in no ``MixedDensity``.
        TypeError
            Weights were given and ``estimator`` takes none; sparse or structured input, dates.
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
        estimator = self._density(X, seed)
        mixed = isinstance(estimator, MixedDensity)
        if mixed:
            X = check_frame(self, X, reset=True, missing=True)
        else:
            X = _tensors.check_table(self, X, reset=True, min_samples=2, missing=True).astype(np.float64)
        weights, weight = {}, np.ones(len(X))
        if sample_weight is not None:
            weight = _tensors.weights_for(estimator, sample_weight, len(X))
            X, weight = X[weight > 0], weight[weight > 0]
        names = _tensors.column_names(self, X.shape[1])
        missing = np.asarray(pd.isna(X))
        if missing.all(axis=0).any():
            bad = [name for name, none in zip(names, missing.all(axis=0), strict=True) if none]
            raise ValueError(f"X: {', '.join(bad)} without any value; drop what has none.")
        X, weight = X[~missing.all(axis=1)], weight[~missing.all(axis=1)]
        if len(X) < 2:
            raise ValueError(f"X: {len(X)} row(s) with a value, while a minimum of 2 is required.")
        if mixed:
            kinds, guesses = find_kinds(X, estimator.kinds)
            for guess in guesses:
                warnings.warn(f"{guess} with kinds={{column: kind}}.", DataWarning, stacklevel=4)
            estimator = clone(estimator).set_params(kinds=kinds)  # that later rounds cannot change
            self._table = Mixed(X, kinds)
        else:
            self._table = Numbers(X, names)
        values, _, _ = self._table.encode(X)
        missing, rng = np.isnan(values), np.random.default_rng(seed)
        spread = values
        if self._table.width.any():
            spread = values + (rng.random(values.shape) - 0.5) * self._table.width

        if sample_weight is not None:
            weights["sample_weight"] = weight
        self._proposal = Proposal(spread, weight)
        u = self._start(self._proposal.forward(spread)[0], missing, weight, rng)
        gaps = missing.any(axis=1)
        rounds = self.n_rounds if gaps.any() else 1
        for round_ in range(rounds):
            # u of values that were seen are theirs, so that these come back to the bit
            filled = np.where(missing, self._proposal.inverse(u), spread)
            last = round_ + 1 == rounds
            rows = np.arange(len(X)) if last or round_ else self._to_start_from(values)
            part = {name: weight[rows] for name in weights}
            self.estimator_ = clone(estimator).fit(self._table.to_fit(X, filled, rows), None, **part)
            self._proposal.fit(u[rows], weight[rows], seed)
            if not last:
                filled[gaps] = self._draws(values[gaps], 1, rng)[:, 0]
                u = self._proposal.forward(filled)[0]
        sobol = torch.quasirandom.SobolEngine(values.shape[1] + 1, scramble=True, seed=seed)
        points = sobol.draw(self.n_points, dtype=torch.float64).clamp(1e-9, 1.0 - 1e-9)
        self._choice = _tensors.to_array(points[:, 0])[None]
        self._noise = _tensors.to_array(torch.special.ndtri(points[:, 1:]))[None]

    def _density(self, X, seed):
        """The estimator to fit, a MixedDensity where there are categories."""
        bad = categories(X)
        if self.estimator is None:
            return MixedDensity(random_state=seed) if bad else InterpolantFlow(random_state=seed)
        if isinstance(self.estimator, MixedDensity):
            self.estimator._validate_params()
        elif bad:
            name = type(self.estimator).__name__
            raise ValueError(
                f"Column(s) {bad} hold text, truth values or categories, and {name} takes numbers only; put "
                f"it into a MixedDensity, InterpolantImputer(MixedDensity({name}(...))), or leave them out, "
                "for example by ColumnTransformer([('numbers', InterpolantImputer(), columns)], "
                "remainder='passthrough')."
            )
        elif getattr(self.estimator, "periodic", None):
            raise ValueError(
                f"estimator has periodic={self.estimator.periodic!r}, and a missing angle must stay within "
                "one turn; say so by kinds, InterpolantImputer(MixedDensity(InterpolantFlow(...), "
                "kinds={column: ('periodic', period)}))."
            )
        return self.estimator

    def _to_start_from(self, values):
        """The rows without gaps, where there are enough of them, else all."""
        complete = ~np.isnan(values).any(axis=1)
        enough = complete.sum() >= _COMPLETE_ROWS * values.shape[1]
        alone = enough and self._table.all_in(values[complete])
        return np.flatnonzero(complete) if alone else np.arange(len(values))

    def _start(self, u, missing, weight, rng):
        """Fill by values of other rows, then by draws from a Gaussian whose moments follow the draws."""
        if not missing.any():
            return u
        for j in range(u.shape[1]):
            u[missing[:, j], j] = rng.choice(u[~missing[:, j], j], size=int(missing[:, j].sum()))
        gaps = missing.any(axis=1)
        empty = np.where(missing[gaps], np.nan, u[gaps])
        for _ in range(_GAUSSIAN_ROUNDS):
            gaussian = self._proposal.fit(u, weight, 0, n_components=1)
            found = []
            for rows in gaussian.blocks(len(empty), 1):
                n = len(empty[rows])
                choice, noise = rng.random((n, 1)), rng.standard_normal((n, 1, u.shape[1]))
                found.append(gaussian.candidates(empty[rows], choice, noise)[0][:, 0])
            u[gaps] = np.concatenate(found)
        return u

    # -- use --------------------------------------------------------------------------------------------

    def transform(self, X):
        """Fill every missing value with its mean given the rest of the row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
            What was there is left to the bit.  With a ``MixedDensity`` inside, a DataFrame for a DataFrame,
            with its index, its dtypes and its levels.

        Raises
        ------
        ValueError
            A row with gaps holds what has probability zero, such as a level that ``fit`` did not see.
        """
        table = self._check(X)
        values, gaps = self._numbers(table)
        if gaps.any():
            means, sizes = [], []
            for rows, log_weight in self._weighed(values[gaps]):
                share = _shares(log_weight)
                means.append(self._table.centre(rows, share))
                sizes.append(1.0 / (share**2).sum(axis=1))
            self._report_few(np.concatenate(sizes))
            values[gaps] = np.concatenate(means)
        return _as_came(self._table.fill(table, values), X)

    def impute(self, X, n_draws=1, random_state=None):
        """Complete tables: every missing value drawn given the rest of its row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_draws : int, default=1
            Tables; with more than a quarter of ``n_points`` there are four candidates for each.
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_draws, n_features)
            ``X_filled[:, i]`` is a table; what was there is left to the bit.  With a ``MixedDensity`` inside
            and a DataFrame for X, a list of ``n_draws`` DataFrames like X.

        Raises
        ------
        ValueError
            As :meth:`transform`.
        """
        table = self._check(X)
        n_draws = len(_tensors.check_n_samples(n_draws, table.size, "n_draws"))
        rng = np.random.default_rng(_tensors.draw_seed(random_state))
        values, gaps = self._numbers(table)
        drawn = np.repeat(values[:, None], n_draws, axis=1)
        if gaps.any():
            drawn[gaps] = self._draws(values[gaps], n_draws, rng)
        tables = [_as_came(self._table.fill(table, drawn[:, i]), X) for i in range(n_draws)]
        return tables if isinstance(tables[0], pd.DataFrame) else np.stack(tables, axis=1)

    def score_samples(self, X, return_error=False):
        """Log-density of what is there in every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_error : bool, default=False
            Also return the standard error from the finite number of candidates, in nats, as if they were
            independent (they are scrambled Sobol points, whose error is smaller).

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In the units of the observed columns of the row, so rows that lack different values do not
            compare; 0 for a row without any value, ``-inf`` where a constant column has another value.
            The estimate of the density is unbiased, its logarithm a little too small.  With a
            ``MixedDensity`` inside, a density in the observed real columns and a probability in the others,
            complete rows as that estimator scores them.
        error : ndarray of shape (n_samples,)
            Only if ``return_error``; 0 in complete rows of numbers.
        """
        X = self._check(X)
        rows, log_det, possible = self._table.encode(X)
        missing = np.isnan(rows)
        values, errors = np.zeros(len(rows)), np.zeros(len(rows))
        whole, part = ~missing.any(axis=1), missing.any(axis=1) & ~missing.all(axis=1)
        if whole.any():
            values[whole], errors[whole] = self._table.whole(self.estimator_, X[whole])
        if part.any():
            log_weight = np.concatenate([w for _, w in self._weighed(rows[part])])
            k = log_weight.shape[1]
            values[part] = np.logaddexp.reduce(log_weight, axis=1) - np.log(k) + log_det[part]
            size = 1.0 / (_shares(log_weight) ** 2).sum(axis=1)
            errors[part] = np.sqrt(np.maximum(k / size - 1.0, 0.0) / (k - 1))
        values[~possible] = -np.inf
        return (values, errors) if return_error else values

    def score(self, X, y=None, sample_weight=None):
        """Mean of ``score_samples``, the figure that ``GridSearchCV`` maximises.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
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

    # -- helpers ----------------------------------------------------------------------------------------

    def _check(self, X):
        check_is_fitted(self)
        return self._table.check(self, X)

    def _numbers(self, table):
        """Numbers of a table, and which rows lack some."""
        values, _, possible = self._table.encode(table)
        gaps = np.isnan(values).any(axis=1)
        self._table.refuse(table, gaps & ~possible)
        return values, gaps

    def _weighed(self, X, rng=None, n_points=None):
        """Blocks of candidates ``(n, k, d)`` and their log-weights ``(n, k)``, for numbers ``(n, d)``.

        Where a cell is seen, each candidate has a point of it; the candidates for the rest follow its middle.
        The points are the fitted ones, or fresh for every row where there is a generator.
        """
        u, n_points = self._proposal.forward(X)[0], n_points or self._choice.shape[1]
        width = self._table.width
        log_cell = np.log(np.where(width > 0, width, 1.0))  # a cell that is seen has a probability
        for block in self._proposal.blocks(len(X), n_points):
            choice, noise = (
                (self._choice, self._noise)
                if rng is None
                else (
                    rng.random((len(u[block]), n_points)),
                    rng.standard_normal((len(u[block]), n_points, X.shape[1])),
                )
            )
            made, log_h = self._proposal.candidates(u[block], choice, noise)
            made = made.reshape(-1, X.shape[1])
            rows = self._proposal.inverse(made).reshape(*log_h.shape, -1)
            missing = np.isnan(X[block])[:, None]
            rows = np.where(missing, rows, X[block][:, None] + self._in_cell(noise))
            flat = rows.reshape(-1, X.shape[1])
            slope = self._proposal.forward(flat)[1].reshape(rows.shape)
            log_q = self._table.log_density(self.estimator_)
            log_q = [log_q(flat[start : start + _AT_ONCE]) for start in range(0, len(flat), _AT_ONCE)]
            log_q = np.concatenate(log_q).reshape(log_h.shape)
            log_weight = log_q - log_h + np.where(missing, -slope, log_cell).sum(axis=2)
            nowhere = (missing & ~self._table.inside(rows)).any(axis=2)
            yield rows, np.where(nowhere | np.isnan(log_weight), -np.inf, log_weight)

    def _in_cell(self, noise):
        """Places in the cells, from standard normal numbers."""
        width = self._table.width
        if not width.any():
            return np.zeros(len(width))
        return (_tensors.to_array(torch.special.ndtr(_tensors.to_tensor(noise))) - 0.5) * width

    def _draws(self, X, n_draws, rng):
        """``(n, n_draws, d)``, of active columns."""
        n_points = max(self.n_points, 4 * n_draws)
        found, sizes = [], []
        for rows, log_weight in self._weighed(X, rng, n_points):
            share = _shares(log_weight)
            sizes.append(1.0 / (share**2).sum(axis=1))
            found.append(np.take_along_axis(rows, _resampled(share, n_draws, rng)[:, :, None], axis=1))
        self._report_few(np.concatenate(sizes))
        return np.concatenate(found)

    def _report_few(self, sizes):
        few = sizes < 2.0
        if few.mean() > 0.1:
            warnings.warn(
                f"in {int(few.sum())} of {len(few)} incomplete rows one of the candidates has nearly all of "
                f"the weight; raise n_points={self.n_points}.",
                DataWarning,
                stacklevel=3,
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _as_came(filled, X):
    """A frame that was made of an array, as an array."""
    return filled.to_numpy() if hasattr(filled, "columns") and not hasattr(X, "columns") else filled


def _resampled(share, n_draws, rng):
    """Numbers of candidates ``(n, n_draws)``: each as often as its share says, rounded up or down."""
    n, k = share.shape
    row = np.arange(n)[:, None]
    at = row + (np.arange(n_draws) + rng.random((n, 1))) / n_draws
    ends = row + np.cumsum(share, axis=1)  # one after the other for all rows, so that one search does
    return np.clip(np.searchsorted(ends.ravel(), at) - k * row, 0, k - 1)


def _shares(log_weight):
    """Weights that sum to 1 in every row; equal ones where the density is zero at all candidates."""
    top = log_weight.max(axis=1, keepdims=True)
    share = np.where(np.isfinite(top), np.exp(log_weight - np.where(np.isfinite(top), top, 0.0)), 1.0)
    return share / share.sum(axis=1, keepdims=True)
