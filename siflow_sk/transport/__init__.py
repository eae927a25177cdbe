"""InterpolantTransport: invertible maps between tables of numbers, and between snapshots in time."""

import copy
import itertools

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone

from .. import _likelihood, _tensors
from .._compat import HasMethods, _fit_context
from .._training import Data, Settings, Trainer
from ..couplings import COUPLINGS, Paired
from ..flow._trained import TRAINING_CONSTRAINTS, PartsMixin, slot_constraints, warn_of_lost_steps
from ..interpolants import INTERPOLANTS, check_ends
from ..preprocessing import PREPROCESSORS
from ..solvers import SOLVERS
from ..velocities import VELOCITIES
from ._fitted import FittedMixin
from ._segments import Ends, Rows, Segment
from ._snapshots import joined, snapshots

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


class InterpolantTransport(FittedMixin, PartsMixin, BaseEstimator):
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
    coupling : str or Coupling, default="optimal_transport"
        Which rows are paired, inside a batch: ``"optimal_transport"``, ``"independent"``, ``"by_cluster"``;
        distances are those after the preprocessor.  ``"paired"``: the rows of the tables as they are listed,
        row i with row i; all tables need the same number.
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
    inference_dtype : {"auto", "float64", "float32"}, default="auto"
        Precision of scoring, sampling and transforming.  ``"auto"``: float64, but log-densities take the
        velocity in float32 where, on validation rows, that moves 99.5 % of them by no more than a tenth of
        the solver's ``tol`` (``solver_.single_``).  Training is in float32 always.
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
        The parts; a coupling that learns does so afresh for each segment, in a copy that is not kept.
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
        "coupling": {**COUPLINGS, "paired": Paired},
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
        inference_dtype="auto",
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
            No ``y``; a table of another width, or with ``coupling="paired"`` of another length; times that
            are not finite numbers, only one time, or a time with a single row; NaN or infinity; a parameter
            that cannot be used.
        ImportError
            A batch that POT must assign, and it is not installed.
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
        times, tables = snapshots(self, X, y)
        distinct = [_tensors.canonical(table, np.ones(len(table))) for table in tables]
        rows = np.concatenate([table for table, _, _ in distinct])
        weight = np.concatenate([weight for _, weight, _ in distinct]) / len(distinct)
        active, constant = _tensors.split_constant(rows, _tensors.column_names(self, X.shape[1]))
        check_ends(parts["interpolant"], int(active.sum()))
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
            return Rows(z.float().to(device), _tensors.to_tensor(weight).to(device), n_draws)

        settings = self._settings()
        self.segments_, self.loss_curves_ = [], []
        if isinstance(parts["coupling"], Paired):
            pairs = joined(times, tables)
        else:
            pairs = itertools.pairwise(distinct)
        for k, pair in enumerate(pairs):
            own_seed = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            segment, losses = self._segment(
                parts, settings, *(latent(*table) for table in pair), times[k : k + 2], own_seed, device
            )
            self.segments_.append(segment)
            self.loss_curves_.append(losses)
        self._active, self._constant, self._dtype = active, constant, X.dtype
        self._spread = np.ptp(rows[:, ~active], axis=0)
        self._network_dtype = self._inference_dtype()  # set_params waits for the next fit
        self.constant_features_ = np.flatnonzero(~active)
        self.times_, self.preprocessor_, self.device_ = times, preprocessor, str(device)
        self.coupling_ = parts["coupling"]
        self.max_iter_, self.batch_size_ = settings.n_quadratic, settings.batch_size
        self.n_iter_ = sum(map(len, self.loss_curves_))

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
        paired = isinstance(parts["coupling"], Paired)
        data = Data(target.x, target.weight, target.n_draws, partner=source.x if paired else None)
        with torch.inference_mode(False), torch.enable_grad():
            network = parts["velocity"].build(target.x.shape[1], _tensors.make_generator(seed))
            network = network.float().to(device)
            path = copy.deepcopy(parts["interpolant"])  # a learnable one is learnt between each pair of times
            trainer = Trainer(
                network, source, path, data, settings, generator, self.verbose, parts["coupling"]
            ).regress()
        losses = [float(value) for value in trainer.history.loss]
        warn_of_lost_steps(losses, self.learning_rate_init)
        network = self._for_inference(network)
        solver = copy.deepcopy(parts["solver"])
        # the rows are sorted: some of all, not the first
        self._calibrate(network, Ends(), solver, target.x[:: -(-len(target.x) // 256)])
        return Segment(float(times[0]), float(times[1]), path, network, solver), losses

    def _networks(self):
        return [segment.velocity for segment in self.segments_]

    def __sklearn_is_fitted__(self):
        return hasattr(self, "segments_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
