"""InterpolantFlow: a density estimator for tables."""

from numbers import Integral

import numpy as np
import torch
from sklearn.base import BaseEstimator

from .. import _likelihood, _tensors
from .._compat import Interval, StrOptions, _check_sample_weight, _fit_context
from .._training import fit_parts, make_settings, networks_of
from ..bases import BASES
from ..couplings import COUPLINGS
from ..interpolants import INTERPOLANTS, check_ends
from ..preprocessing import PREPROCESSORS
from ..solvers import SOLVERS
from ..torus import WrappedNormal, on_torus, periods_of
from ..velocities import VELOCITIES
from ._fitted import FittedMixin
from ._trained import TRAINING_CONSTRAINTS, TrainedMixin, slot_constraints


class InterpolantFlow(FittedMixin, TrainedMixin, BaseEstimator):
    r"""Density estimation with a continuous normalizing flow built from a stochastic interpolant.

    Base points :math:`x_0\sim\rho_0` and data points :math:`x_1\sim\rho_1` are joined by an interpolant
    :math:`x_t = \alpha(t)x_0 + \beta(t)x_1`.  The velocity :math:`v_t(x) = E[\dot x_t \mid x_t = x]` of the
    density in between is learnt by a quadratic regression, without solving a differential equation
    [1]_, then polished by maximum likelihood.  The flow :math:`\dot X_t = v_t(X_t)` carries either density
    into the other and gives the exact log-density

    .. math:: \log\rho_1(x) = \log\rho_0(X_{1,0}(x)) - \int_0^1 \nabla\cdot v_t(X_{1,t}(x))\,dt .

    All densities are in nats and in the units of X; the Jacobian of the preprocessing is accounted for.

    Parameters
    ----------
    interpolant : {"trigonometric", "linear", "fourier"} or Interpolant, default="trigonometric"
        The path between base and data; ``"fourier"`` is learnt, towards the shortest.
    base : str or part, default="normal"
        Density at t = 0, in the space after the preprocessor: ``"normal"``, ``"gaussian"``, ``"student_t"``,
        ``"uniform"``; ``"learnt_gaussian"``, whose mean and covariance are learnt, towards the shortest path;
        ``"wrapped_normal"`` for periodic columns, beside N(0, I) for the others.  A part is a
        :class:`~siflow_sk.bases.Base`, a scikit-learn density estimator with ``score_samples`` and
        ``sample`` (a clone is fitted), or a ``torch.distributions.Distribution``.
    coupling : {"independent", "optimal_transport", "by_cluster"} or Coupling, default="independent"
        Which base points are joined to which rows.  ``"optimal_transport"`` assigns them inside each batch,
        ``"by_cluster"`` draws them inside clusters: a shorter path, see :meth:`path_length`, but the score
        no longer follows from the velocity.
    velocity : {"mlp", "residual"} or part, default="mlp"
        The network; ``"mlp"`` has a closed-form divergence and is the better one on tables.
    n_networks : int or "auto", default="auto"
        Networks that are trained one after the other, from different starts; the velocity is the mean of
        theirs, a velocity like any other.  The first finds with validation rows how many steps are good; the
        others take as many, on all rows.  The time of an evaluation grows with their number, and that of a
        fit, by about half of it for each.  ``"auto"`` with ``velocity="mlp"``: 4 of half the width up to 8000
        distinct rows, and of more than 2000 fewer, 2 at least, where their polish together would take more
        than twice ``polish_``; of more than 20 columns 4 up to 400 rows and 2 from 1001 to 8000.  They take
        up to twice the time of one of the full width.  Else 1, as where the path or the base is learnt, which
        several would not share.  Where the present network goes on (``warm_start``, ``partial_fit``) nothing
        is added to it.
    preprocessor : {"gaussianize", "whiten", "standardize", "none"} or Preprocessor, default="gaussianize"
        Invertible map applied before the flow.
    solver : {"grid", "dopri5", "rk4", "torchdiffeq"} or Solver, default="grid"
        How the flow is integrated for scoring, sampling and transforming.
    periodic : dict, default=None
        Name or number of a column -> its period, in the units of the column: ``{"phi": 360.0}`` for an angle
        in degrees, ``{0: 24.0}`` for hours of the day.  There the flow lives on a circle: values that differ
        by whole periods are the same, densities integrate to 1 over one period and are continuous across its
        ends, pairs are joined the shorter way round, the base is uniform (``base`` is for the other columns)
        unless it is ``"wrapped_normal"``, and the network sees cosines and sines.  With
        ``preprocessor="gaussianize"`` each angle is first spread evenly over the circle, otherwise it is only
        scaled.
    max_iter : int or "auto", default="auto"
        Optimiser steps on the quadratic loss.  ``"auto"``: half the number of distinct rows, at least 100
        and at most 800; on CUDA 20 passes over the rows where that is more.
    polish : int or "auto", default="auto"
        Largest number of optimiser steps on the likelihood, after the quadratic stage; 0 switches the stage
        off.  It needs validation rows, and a base whose density is finite and differentiable there.
        ``"auto"``: 3 times ``max_iter`` where that is given, otherwise as many as take less than a
        minute on one core for this width and number of columns, at most 5000, or 2200 where
        ``n_networks`` chose several for more than 2000 rows; on CUDA 20 passes over the rows, at least 5000.
    batch_size : int or "auto", default="auto"
        Rows per step of the quadratic loss; a step on the likelihood takes a quarter of them, at least 128,
        and where there are fewer than 768 distinct rows a sixth of these, at least 64; never more than
        there are training rows.
        ``"auto"``: 512; on CUDA a sixty-fourth of the distinct rows, between 512 and 4096.
    learning_rate_init : float, default=3e-3
        Peak learning rate, reached after 50 steps and lowered along a cosine.  Matrices that act on x are
        trained by Muon, everything else by Adam.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the matrices that act on x: each step shrinks them by the learning rate
        times this.  ``"auto"``: 0.5 from 1000 distinct rows on, of n fewer times (1000 / n)^2, but at most
        4, which is reached at 354; in ``partial_fit``, where n is not known, 0.5.
    ema_decay : float, default=0.99
        The weights that are validated and kept are an exponential average with this decay.
    early_stopping : bool or "auto", default="auto"
        Keep validation rows aside, follow their exact log-density, restore the best weights, end the polish
        when it no longer improves.  ``"auto"``: from 100 distinct rows on.  Without it there is no polish.
    validation_fraction : float, default=0.1
        Share of the distinct rows kept for validation, at most 2048 rows.
    n_iter_no_change : int, default=5
        Validations without an improvement by ``tol`` before the learning rate falls (twice, then the
        polish ends); half as many after the first fall.  A score that climbs out of the dip with which the
        polish begins improves; more than half as many are enough where it falls ever faster.
    tol : float, default=1e-3
        Improvement of the mean validation log-density, in nats, that counts.
    warm_start : bool, default=False
        Go on from the present network, preprocessor and base instead of new ones.
    inference_dtype : {"auto", "float64", "float32"}, default="auto"
        Precision of scoring, sampling and transforming.  ``"auto"``: float64, but log-densities take the
        velocity in float32 where, on validation rows, that moves 99.5 % of them by no more than a tenth of
        the solver's ``tol`` (``solver_.single_``).  Training is in float32 always.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"`` is CUDA where it is, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random in ``fit``; an int repeats exactly on the same machine.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    interpolant_, base_, coupling_, velocity_, preprocessor_, solver_ : object
        The parts as ``fit`` made them; ``velocity_`` is the trained ``torch.nn.Module``, ``solver_`` holds
        the time grid that was chosen.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.
    periodic_ : dict of int to tuple (float, float)
        Number of a periodic column -> start of the turn that its values come back in, and period.  A turn
        starts at 0, or half a period below it where X had negative values.
    constant_features_ : ndarray of int
        Columns without spread; they carry no density.
    n_networks_ : int
        Networks whose mean ``velocity_`` is.  What follows tells of the first of them.
    n_iter_ : int
        Optimiser steps done, both stages.
    loss_curve_ : list of float
        Quadratic loss per step.  Its floor is not zero: it does not measure the fit.
    polish_loss_curve_ : list of float
        Penalised negative log-likelihood per polish step, in the space of the flow.
    validation_scores_ : list of float
        Mean log-density of the validation rows, nats, units of X, at each validation.
    best_validation_score_ : float or None
        The largest of them.
    best_iteration_ : int
        Step at which it was reached; its weights are the model.
    quadratic_validation_score_ : float or None
        Best validation score before the polish.
    batch_size_, max_iter_, polish_, weight_decay_, early_stopping_ : int, int, int, float, bool
        What "auto" chose.
    device_ : str

    References
    ----------
    .. [1] M. S. Albergo, E. Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
       ICLR 2023, arXiv:2209.15571.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from siflow_sk import InterpolantFlow
    >>> X, _ = make_moons(500, noise=0.1, random_state=0)
    >>> flow = InterpolantFlow(max_iter=100, polish=50, random_state=0).fit(X)
    >>> flow.score_samples(X[:3]).shape
    (3,)
    >>> flow.sample(2, random_state=1).shape
    (2, 2)
    """

    _slots = {
        "interpolant": INTERPOLANTS,
        "base": {**BASES, "wrapped_normal": WrappedNormal},
        "coupling": COUPLINGS,
        "velocity": VELOCITIES,
        "preprocessor": PREPROCESSORS,
        "solver": SOLVERS,
    }

    _parameter_constraints = {
        **{slot: slot_constraints(slot, table) for slot, table in _slots.items()},
        "n_networks": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "periodic": [dict, None],
        **TRAINING_CONSTRAINTS,
        "weight_decay": [*TRAINING_CONSTRAINTS["weight_decay"], StrOptions({"auto"})],
        "warm_start": ["boolean"],
    }

    coupling, periodic, n_networks = "independent", None, "auto"  # of files from before there was a choice

    def __init__(
        self,
        *,
        interpolant="trigonometric",
        base="normal",
        coupling="independent",
        velocity="mlp",
        n_networks="auto",
        preprocessor="gaussianize",
        solver="grid",
        periodic=None,
        max_iter="auto",
        polish="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        weight_decay="auto",
        ema_decay=0.99,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=5,
        tol=1e-3,
        warm_start=False,
        inference_dtype="auto",
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.interpolant = interpolant
        self.base = base
        self.coupling = coupling
        self.velocity = velocity
        self.n_networks = n_networks
        self.preprocessor = preprocessor
        self.solver = solver
        self.periodic = periodic
        self.max_iter = max_iter
        self.polish = polish
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.ema_decay = ema_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.inference_dtype = inference_dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- fitting ----------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, checkpoint=None):
        """Fit the flow to the rows of X.

        A fit that fails, on bad input or anything else, leaves the estimator as it was, fitted or not.  Of
        more than 1,048,576 rows, and more than ``max_iter`` batches hold, a random share of that size is kept
        in memory; a memory-mapped X is never copied whole.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; a whole number means the same as repeating the row.
        checkpoint : str, path-like or Checkpoint, default=None
            A file that is written once a minute, or as a :class:`~siflow_sk.persistence.Checkpoint` says, and
            at the end of training.  When it is there already, training goes on from it, and ends on the same
            machine as if it had never stopped.  The file stays: delete it when the model is safe.

        Returns
        -------
        self : InterpolantFlow
            The fitted estimator.

        Raises
        ------
        ValueError
            NaN, infinity, masked or identical rows, a parameter that cannot be used, ``periodic`` with a
            column that is not there, a checkpoint of other data or parameters, several networks with a path
            or base that is learnt.
        ImportError
            A coupling that needs POT for a batch of this size, and it is not installed.
        TypeError
            Sparse or structured input, dates.
        """
        twin = self._twin()
        continues = self.warm_start and self.__sklearn_is_fitted__()
        twin._fit(X, sample_weight, continues=continues, one_pass=False, checkpoint=checkpoint)
        self.__dict__ = twin.__dict__
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """One pass of the quadratic loss over a chunk of rows.

        The first call makes the preprocessor, the base and the network from its chunk; later calls keep
        them and go on.  There is no validation and no polish; call ``fit`` for a finished model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : InterpolantFlow
            The estimator.
        """
        twin = self._twin()
        twin._fit(X, sample_weight, continues=self.__sklearn_is_fitted__(), one_pass=True)
        self.__dict__ = twin.__dict__
        return self

    def _fit(self, X, sample_weight, *, continues, one_pass, checkpoint=None):
        parts = self._parts(continues)
        _likelihood.rehearse(parts["solver"])
        device = _tensors.resolve_device(self.device)
        checkpoint, seed = self._open(checkpoint)
        X = _tensors.check_table(self, X, reset=not continues, min_samples=1 if continues and one_pass else 2)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.sum() > 0:
            raise ValueError("sample_weight: at least one weight must be greater than zero.")
        if not one_pass:
            X, weight = _tensors.thin(X, weight, self._most_rows(), seed)
        turns = self._find_turns(X, weight, continues)
        rows, weight, n_draws = _tensors.canonical(_tensors.within_turns(X, turns), weight)
        names = _tensors.column_names(self, X.shape[1])
        if continues:
            active = self._active
        else:
            active, constant = _tensors.split_constant(rows, names)
            _tensors.warn_about(rows, len(X), weight, active, names, X.dtype == np.float32)
        x, weight = _tensors.to_tensor(rows[:, active]), _tensors.to_tensor(weight)
        check_ends(parts["interpolant"], x.shape[1])
        inner = {int(active[:j].sum()): turn for j, turn in turns.items() if active[j]}
        n_networks = 1
        if not (continues or one_pass):
            n_networks, parts["velocity"] = networks_of(self, *x.shape, parts)
        parts = on_torus(parts, inner, x.shape[1])

        if checkpoint is not None:
            start = [self.preprocessor_, self.base_, self.velocity_] if continues else None
            call = self._call({"X": rows}, weight.numpy(), n_draws, start, device)
            checkpoint.belongs_to(call, seed)
        settings, stop_early = make_settings(
            self, *x.shape, n_draws, parts["velocity"], device, n_networks=n_networks, one_pass=one_pass
        )
        try:
            made = fit_parts(
                parts,
                x,
                weight,
                n_draws,
                settings,
                fraction=self.validation_fraction if stop_early else None,
                seed=seed,
                device=device,
                verbose=self.verbose,
                fitted=(self.preprocessor_, self.base_, self.velocity_) if continues else None,
                checkpoint=checkpoint,
                n_networks=n_networks,
            )
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"{device} ran out of memory while training on {len(x)} rows of {x.shape[1]} columns in "
                f"batches of {settings.batch_size}; lower batch_size or take a smaller velocity or the CPU."
            ) from error
        network = self._for_inference(made.network)
        data = made.trainer.data
        reference = data.x if data.x_valid is None else torch.cat([data.x_valid, data.x])
        solver = self._calibrate(network, made.base, parts["solver"], reference[:256])

        if not continues:
            self._active, self._constant, self._dtype = active, constant, X.dtype
            self._spread = np.ptp(rows[:, ~active], axis=0)
            self.constant_features_, self.n_networks_ = np.flatnonzero(~active), made.n_networks
            self._n_features_out, self.periodic_ = int(active.sum()), turns
        self.interpolant_, self.base_, self.velocity_ = made.interpolant, made.base, network
        self.preprocessor_, self.solver_, self.device_ = made.preprocessor, solver, str(device)
        self.coupling_ = made.trainer.draws.coupling
        self._network_dtype = next(network.parameters()).dtype  # set_params waits for the next fit
        self._record(made.trainer, settings, stop_early, continues and one_pass)

    def _find_turns(self, X, weight, continues):
        """Periodic columns and the turn that their values are taken into."""
        periods = periods_of(self.periodic, X.shape[1], getattr(self, "feature_names_in_", None))
        if not continues:
            return _tensors.turns_of(X[weight > 0], periods) if periods else {}
        turns = getattr(self, "periodic_", {})  # older files have none
        if periods != {j: period for j, (_, period) in turns.items()}:
            raise ValueError(
                f"periodic={self.periodic!r} is not what this flow was fitted with; a network cannot go on "
                "from other periods: set warm_start=False and call fit."
            )
        return turns

    def _most_rows(self):
        """No more rows than training can draw are worth their memory."""
        if self.max_iter == "auto":
            return _tensors.MOST_ROWS
        batch_size = 512 if self.batch_size == "auto" else int(self.batch_size)
        return max(_tensors.MOST_ROWS, int(self.max_iter) * batch_size)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
