"""InterpolantTransport: invertible maps between tables of numbers, and between snapshots in time."""

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from . import _likelihood, _tensors
from ._compat import HasMethods, _fit_context, in_container
from ._training import Batches, Data, Settings, Trainer
from .couplings import COUPLINGS
from .flow._rows import KnownDensity, RowsMixin, nan_where
from .flow._trained import TRAINING_CONSTRAINTS, PartsMixin, slot_constraints, warn_of_lost_steps
from .interpolants import INTERPOLANTS
from .persistence import own
from .preprocessing import PREPROCESSORS
from .solvers import SOLVERS
from .velocities import VELOCITIES

# of the parameters of training, those of the quadratic stage alone
_TRAINING = (
    "max_iter",
    "batch_size",
    "learning_rate_init",
    "weight_decay",
    "ema_decay",
    "inference_dtype",
    "device",
    "random_state",
    "verbose",
)


@own
@dataclass
class Segment:
    """The flow between two neighbouring times, on a clock of its own that runs from 0 to 1."""

    start: float
    end: float
    interpolant: object
    velocity: torch.nn.Module
    solver: object

    def clock(self, t):
        """Time on the clock of the segment, cut off at its ends."""
        return min(max((t - self.start) / (self.end - self.start), 0.0), 1.0)


class _Rows:
    """Draws of the rows of one table, as the base of a segment."""

    def __init__(self, x, weight, n_draws):
        self.x, self.weight, self.n_draws = x, weight, n_draws
        self.batches = None

    def sample(self, n, generator):
        if self.batches is None:
            self.batches = Batches(self.weight, self.n_draws, generator)
        return self.x[self.batches.take(n)]


class _Ends:
    """What the time grid of a solver is judged by where no density is known: end points and volume."""

    def log_prob(self, z):
        return z.sum(1)


class _EndOf:
    """The density at the end of the segments so far, from which the next one goes on."""

    def __init__(self, known, segment):
        self.known, self.segment = known, segment

    def log_prob(self, z):
        value, _ = _likelihood.log_density(self.segment.velocity, self.known, self.segment.solver, z)
        return value


def _has_density(self):
    if self.source_density is None:
        raise AttributeError(
            f"{type(self).__name__} knows the density of the target only through that of the source; set "
            "source_density, for example to KernelDensity(), InterpolantFlow() or a FrozenEstimator around a "
            "fitted one, and fit again."
        )
    return True


class InterpolantTransport(PartsMixin, RowsMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Invertible map of one table into another, or of a snapshot in time into the next ones.

    Rows :math:`x_0` of the source and :math:`x_1` of the target are joined by an interpolant
    :math:`x_t = \alpha(t)x_0 + \beta(t)x_1`, and the velocity :math:`v_t(x) = E[\dot x_t \mid x_t = x]` is
    learnt by a quadratic regression [1]_.  The flow :math:`\dot X_t = v_t(X_t)` carries the source into the
    target, and backwards the target into the source: one fit maps both ways.  Neither density need be
    known.  With ``coupling="optimal_transport"`` and ``interpolant="linear"`` the map tends to the optimal
    one, so that rows move no further than they must.

    With a time for every row in place of a second table, one such flow is learnt between each pair of
    neighbouring times: a continuous motion through all snapshots.

    Parameters
    ----------
    interpolant : {"linear", "trigonometric", "fourier"} or Interpolant, default="linear"
        The path between a pair of rows.
    coupling : {"optimal_transport", "independent"} or Coupling, default="optimal_transport"
        Which rows are paired, inside a batch; distances are those after the preprocessor.
    velocity : {"mlp", "residual"} or part, default="mlp"
        The network, one for every pair of neighbouring times.
    preprocessor : {"standardize", "whiten", "gaussianize", "none"} or Preprocessor, default="standardize"
        Invertible map that is applied first, fitted to all tables together, each with the same weight.
    solver : {"grid", "dopri5", "rk4", "torchdiffeq"} or Solver, default="grid"
        How the flow is integrated.
    source_density : density estimator, default=None
        A scikit-learn estimator with ``score_samples``; a clone of it is fitted to the rows of the first
        time (a ``FrozenEstimator`` is taken as it is).  With it :meth:`score_samples` is there.
    max_iter : int or "auto", default="auto"
        Optimiser steps for every pair of neighbouring times.  ``"auto"``: 1000.
    batch_size : int or "auto", default="auto"
        Pairs per step.  ``"auto"``: 256.
    learning_rate_init : float, default=3e-3
        Peak learning rate, reached after 50 steps and lowered along a cosine.
    weight_decay : float, default=0.5
        Decoupled weight decay of the matrices that act on x.
    ema_decay : float, default=0.99
        The weights that are kept are an exponential average with this decay.
    inference_dtype : {"float64", "float32"}, default="float64"
        Precision of everything after training.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"`` is CUDA where it is, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random in ``fit``.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    times_ : ndarray of shape (n_times,)
        Times of the snapshots; 0 and 1 for two tables.
    segments_ : list
        One for each pair of neighbouring times, with its ``start``, ``end``, ``interpolant``, ``velocity``
        and ``solver``.
    preprocessor_, coupling_ : object
        The parts as ``fit`` made them.
    source_density_ : estimator
        Only with ``source_density``.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.
    constant_features_ : ndarray of int
        Columns without spread in all tables together; they stay as they are.
    loss_curves_ : list of list of float
        Quadratic loss per step, for every segment.  Its floor is not zero: it does not measure the fit.
    n_iter_ : int
        Optimiser steps done, all segments.
    max_iter_, batch_size_ : int
        What "auto" chose.
    device_ : str

    References
    ----------
    .. [1] M. S. Albergo, E. Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
       ICLR 2023, arXiv:2209.15571.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantTransport
    >>> rng = np.random.default_rng(0)
    >>> X_source, X_target = rng.normal(size=(300, 2)), rng.normal((5.0, 0.0), (0.5, 2.0), size=(400, 2))
    >>> transport = InterpolantTransport(max_iter=100, random_state=0).fit(X_source, X_target)
    >>> transport.transform(X_source).shape
    (300, 2)
    >>> transport.path(X_source, [0.0, 0.5, 1.0]).shape
    (3, 300, 2)
    """

    _slots = {
        "interpolant": INTERPOLANTS,
        "coupling": COUPLINGS,
        "velocity": VELOCITIES,
        "preprocessor": PREPROCESSORS,
        "solver": SOLVERS,
    }

    _parameter_constraints = {
        **{slot: slot_constraints(slot, table) for slot, table in _slots.items()},
        "source_density": [HasMethods(["fit", "score_samples"]), None],
        **{name: TRAINING_CONSTRAINTS[name] for name in _TRAINING},
    }

    def __init__(
        self,
        *,
        interpolant="linear",
        coupling="optimal_transport",
        velocity="mlp",
        preprocessor="standardize",
        solver="grid",
        source_density=None,
        max_iter="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        weight_decay=0.5,
        ema_decay=0.99,
        inference_dtype="float64",
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.interpolant = interpolant
        self.coupling = coupling
        self.velocity = velocity
        self.preprocessor = preprocessor
        self.solver = solver
        self.source_density = source_density
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.inference_dtype = inference_dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- fitting ----------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Learn the map from one table to another, or through snapshots in time.

        A fit that fails leaves the estimator as it was, fitted or not.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The source; or, with one time per row in ``y``, the rows of all snapshots.
        y : array-like of shape (n_target, n_features) or (n_samples,)
            The target: a table with the columns of X and any number of rows.  Or one number for every row
            of X, its time: rows with the same number are one snapshot, and neighbouring snapshots are
            joined.  In a ``Pipeline`` or a search only this second form makes sense.

        Returns
        -------
        self : InterpolantTransport
            The fitted estimator.

        Raises
        ------
        ValueError
            No ``y``; a table of another width; times that are not finite numbers, only one time, or a time
            with a single row; NaN or infinity; a parameter that cannot be used.
        TypeError
            Sparse or structured input, dates.
        """
        twin = self._twin()
        twin._fit(X, y)
        self.__dict__ = twin.__dict__
        return self

    def _fit(self, X, y):
        parts = {slot: self._resolve(slot) for slot in self._slots}
        _likelihood.rehearse(parts["solver"])
        device = _tensors.resolve_device(self.device)
        seed = _tensors.draw_seed(self.random_state)
        X = _tensors.check_table(self, X, reset=True, min_samples=2)
        times, tables = self._snapshots(X, y)
        distinct = [_tensors.canonical(table, np.ones(len(table))) for table in tables]
        rows = np.concatenate([table for table, _, _ in distinct])
        weight = np.concatenate([weight for _, weight, _ in distinct]) / len(distinct)
        active, constant = _tensors.split_constant(rows, _tensors.column_names(self, X.shape[1]))
        preprocessor = parts["preprocessor"].fit(
            _tensors.to_tensor(rows[:, active]), _tensors.to_tensor(weight)
        )
        if self.source_density is not None:
            density = clone(self.source_density)
            if density.get_params().get("random_state", seed) is None:
                density.set_params(random_state=seed % 2**32)
            self.source_density_ = density.fit(tables[0], None)  # FrozenEstimator insists on y

        def latent(table, weight, n_draws):
            z, _ = preprocessor.forward(_tensors.to_tensor(table[:, active]))
            return _Rows(z.float().to(device), _tensors.to_tensor(weight).to(device), n_draws)

        settings = self._settings()
        self.segments_, self.loss_curves_ = [], []
        for k, pair in enumerate(itertools.pairwise(distinct)):
            own_seed = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            segment, losses = self._segment(
                parts, settings, *(latent(*table) for table in pair), times[k : k + 2], own_seed, device
            )
            self.segments_.append(segment)
            self.loss_curves_.append(losses)
        self._active, self._constant, self._dtype = active, constant, X.dtype
        self._spread = np.ptp(rows[:, ~active], axis=0)
        self._network_dtype = getattr(torch, self.inference_dtype)  # set_params waits for the next fit
        self.constant_features_ = np.flatnonzero(~active)
        self.times_, self.preprocessor_, self.device_ = times, preprocessor, str(device)
        self.coupling_ = parts["coupling"]
        self.max_iter_, self.batch_size_ = settings.n_quadratic, settings.batch_size
        self.n_iter_ = sum(map(len, self.loss_curves_))

    def _snapshots(self, X, y):
        """Times, and the table at each of them."""
        name = type(self).__name__
        if y is None:
            raise ValueError(
                f"{name} requires y to be passed, but the target y is None: pass the target table, or one "
                "time for every row of X."
            )
        if not hasattr(y, "shape"):
            y = np.asarray(y)
        if len(y.shape) == 2:
            if y.shape[1] != X.shape[1]:
                raise ValueError(
                    f"y has shape {tuple(y.shape)} and X {X.shape}: a target table needs the {X.shape[1]} "
                    "columns of X; for one time per row of X pass y of one dimension."
                )
            try:
                target = _tensors.check_table(self, y, reset=False, min_samples=2)
            except (TypeError, ValueError) as error:
                raise type(error)(f"y, the target table: {error}") from error
            return np.array([0.0, 1.0]), [X, target.astype(X.dtype, copy=False)]
        if len(y.shape) != 1:
            raise ValueError(f"y must be a table or one time for every row of X, got the shape {y.shape}.")
        check_consistent_length(X, y)
        try:
            y = np.asarray(y).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"y of one dimension holds the time of every row, a number each; got dtype {y.dtype}."
            ) from error
        if not np.isfinite(y).all():
            raise ValueError("y, the times: contains NaN or infinity; drop these rows.")
        times, counts = np.unique(y, return_counts=True)
        if len(times) == 1:
            raise ValueError(
                f"y, the times: all rows are at time {times[0]:g}, so there is nothing to join; at least two "
                "times are needed."
            )
        if counts.min() < 2:
            raise ValueError(
                f"y, the times: {int((counts < 2).sum())} of the {len(times)} times have a single row, for "
                f"example {times[counts.argmin()]:g}; at least 2 rows are needed at each, so put times that "
                "belong together into one snapshot."
            )
        return times, [X[y == t] for t in times]

    def _settings(self):
        return Settings(
            n_quadratic=1000 if self.max_iter == "auto" else int(self.max_iter),
            n_polish=0,
            batch_size=256 if self.batch_size == "auto" else int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            weight_decay=float(self.weight_decay),
            ema_decay=float(self.ema_decay),
            tol=0.0,
            patience=1,
        )

    def _segment(self, parts, settings, source, target, times, seed, device):
        """Train the flow between two neighbouring times; the segment and its losses."""
        generator = _tensors.make_generator(seed, device)
        data = Data(target.x, target.weight, target.n_draws)
        with torch.inference_mode(False), torch.enable_grad():
            network = parts["velocity"].build(target.x.shape[1], _tensors.make_generator(seed))
            network = network.float().to(device)
            path = copy.deepcopy(parts["interpolant"])  # a learnable one is learnt between each pair of times
            trainer = Trainer(
                network, source, path, data, settings, generator, self.verbose, parts["coupling"]
            ).regress()
        losses = [float(value) for value in trainer.history.loss]
        warn_of_lost_steps(losses, self.learning_rate_init)
        network = network.to(getattr(torch, self.inference_dtype)).eval().requires_grad_(False)
        solver = copy.deepcopy(parts["solver"])
        _likelihood.calibrate(network, _Ends(), solver, target.x[:256])
        return Segment(float(times[0]), float(times[1]), path, network, solver), losses

    # -- maps -------------------------------------------------------------------------------------------

    def transform(self, X):
        """Carry rows of the source, at the first time, to the target, at the last.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features)
            NaN, with a :class:`~siflow_sk.exceptions.SolverWarning`, in rows that could not be solved.
        """
        check_is_fitted(self)
        return self._moved(X, self.times_[0], self.times_[-1:])[0]

    def inverse_transform(self, X):
        """Carry rows of the target, at the last time, back to the source, at the first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
        """
        check_is_fitted(self)
        return in_container(self, self._moved(X, self.times_[-1], self.times_[:1])[0], self._columns(), X)

    def transport(self, X, t_from, t_to):
        """Carry rows from one time to another, forwards or backwards.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at ``t_from``.
        t_from, t_to : float
            Times between the first and the last of ``times_``.

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``

        Raises
        ------
        ValueError
            A time outside of the fitted ones.
        """
        check_is_fitted(self)
        start, end = self._check_times([t_from], "t_from"), self._check_times([t_to], "t_to")
        return in_container(self, self._moved(X, start[0], end)[0], self._columns(), X)

    def path(self, X, times):
        """The rows on their way: where each of them is at each of the times.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the source, at the first of ``times_``.
        times : array-like of shape (n_times,)
            Increasing, between the first and the last of ``times_``.

        Returns
        -------
        path : ndarray of shape (n_times, n_samples, n_features)

        Raises
        ------
        ValueError
            Times that do not increase or lie outside of the fitted ones.
        """
        check_is_fitted(self)
        times = self._check_times(times, "times")
        if not (np.diff(times) > 0).all():
            raise ValueError(f"times must increase, got {times.tolist()}.")
        return self._moved(X, self.times_[0], times)

    @available_if(_has_density)
    def score_samples(self, X, t=None):
        r"""Log-density of every row at time ``t``, from that of the source.

        .. math:: \log\rho_t(x) = \log\rho_0(X_{t,0}(x)) - \int_0^t\nabla\cdot v_\tau\,d\tau

        As good as ``source_density_``, which is carried along; there only with ``source_density``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float, default=None
            Between the first and the last of ``times_``; ``None`` is the last, the target.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of X.

        Raises
        ------
        ValueError
            A time outside of the fitted ones.
        """
        X = self._check(X)
        t = self.times_[-1] if t is None else self._check_times([t], "t")[0]
        known, segments = KnownDensity(self, self.source_density_), [s for s in self.segments_ if s.start < t]
        for segment in segments[:-1]:
            known = _EndOf(known, segment)
        values = np.empty(len(X))
        for rows in _tensors.row_chunks(*X.shape):
            z, log_det, outside, far = self._forward(X[rows])
            if segments:
                last = segments[-1]
                value, _ = _likelihood.log_density(last.velocity, known, last.solver, z, last.clock(t))
            else:
                value = known.log_prob(z)
            value = value.double().cpu() + log_det
            value[outside | far] = -math.inf
            values[rows] = _tensors.to_array(value)
        self._report_unsolved(np.isnan(values))
        return values

    # -- helpers ----------------------------------------------------------------------------------------

    def _moved(self, X, start, times):
        """Rows at ``start`` carried to each of ``times`` in turn, ``(n_times, n, d)``."""
        X = self._check(X)
        out = np.empty((len(times), *X.shape), dtype=X.dtype)
        for rows in _tensors.row_chunks(*X.shape):
            z, _, _, far = self._forward(X[rows])
            z, t = nan_where(far, z), start
            for k, t_next in enumerate(times):
                z, t = self._carried(z, t, t_next), t_next
                out[k, rows] = self._to_rows(z)
        self._report_unsolved(np.isnan(out).any(axis=(0, 2)))
        return out

    def _carried(self, z, t_from, t_to):
        """Latent points from one time to another, through the segments between."""
        for segment in self.segments_ if t_to >= t_from else reversed(self.segments_):
            a, b = segment.clock(t_from), segment.clock(t_to)
            if a != b:
                z = _likelihood.transport(segment.velocity, segment.solver, z, a, b)
        return z

    def _check_times(self, times, name):
        first, last = self.times_[[0, -1]]
        try:
            times = np.asarray(times, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers, got {times!r}.") from error
        if times.ndim != 1 or not len(times) or not ((times >= first) & (times <= last)).all():
            raise ValueError(f"{name} must lie in [{first:g}, {last:g}], the fitted times; got {times!r}.")
        return times

    def _columns(self):
        return self.get_feature_names_out()

    def _networks(self):
        return [segment.velocity for segment in self.segments_]

    def __sklearn_is_fitted__(self):
        return hasattr(self, "segments_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
