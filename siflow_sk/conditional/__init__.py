"""ConditionalInterpolantFlow: the density of a target given the other columns."""

import inspect
import warnings
from numbers import Integral

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin

from .. import _likelihood, _tensors
from .._compat import Interval, StrOptions, _check_sample_weight, _fit_context
from .._training import fit_parts, make_settings, networks_of
from ..bases import StandardNormal
from ..couplings import Independent
from ..exceptions import DataWarning
from ..flow._trained import PART_METHODS, TRAINING_CONSTRAINTS, TrainedMixin, slot_constraints
from ..interpolants import INTERPOLANTS, check_ends
from ..preprocessing import PREPROCESSORS
from ..solvers import SOLVERS
from ..velocities import CONDITIONAL_VELOCITIES
from ._context import ContextMap, Table
from ._fitted import ConditionalMixin

__all__ = ["ConditionalInterpolantFlow"]


class ConditionalInterpolantFlow(ConditionalMixin, TrainedMixin, RegressorMixin, BaseEstimator):
    r"""The density p(y | X) by a continuous normalizing flow whose velocity depends on X.

    For every row x of X the flow :math:`\dot Y_t = v_t(Y_t \mid x)` carries N(0, I) into the density of y
    given x, so that

    .. math:: \log p(y \mid x) = \log\varphi(Y_{1,0}(z)) - \int_0^1 \nabla_y\cdot v_t(Y_{1,t}(z) \mid x)\,dt
              + \log|\det dz/dy|

    with z the preprocessed y.  The context x enters the biases and scales of the network alone, so the
    divergence stays closed-form.  Training is that of :class:`~siflow_sk.InterpolantFlow`: a quadratic
    regression [1]_, then a polish by the likelihood of y given x.

    With one target the flow is monotone in y, and everything else is exact up to the tolerance of the solver:
    :math:`F(y \mid x) = \Phi(Y_{1,0}(z))`, quantiles are carried quantiles of N(0, 1), the mean is a
    quadrature.  With several targets quantiles are those of each target alone, from 512 fixed points.

    All densities are in nats and in the units of y.

    Parameters
    ----------
    interpolant : {"trigonometric", "linear", "fourier"} or Interpolant, default="trigonometric"
        The path between base and data.
    velocity : {"mlp", "residual"} or part, default="mlp"
        The network; ``"mlp"`` is a :class:`~siflow_sk.velocities.ConditionalMLP`.
    n_networks : int or "auto", default="auto"
        Networks that are trained one after the other, from different starts, whose mean is the velocity, as
        in :class:`~siflow_sk.InterpolantFlow`.  ``"auto"``: 1, but with ``velocity="mlp"`` and 501 to 2000
        distinct rows 4, unless the path is learnt; a fit then takes about two and a half times as long, an
        evaluation four times.  Where the present network goes on (``warm_start``) nothing is added to it.
    preprocessor : {"gaussianize", "whiten", "standardize", "none"} or Preprocessor, default="gaussianize"
        Invertible map applied to y before the flow.
    context_preprocessor : name as for ``preprocessor``, or Preprocessor, default="gaussianize"
        Map applied to the numbers in X.
    solver : {"grid", "dopri5", "rk4", "torchdiffeq"} or Solver, default="grid"
        How the flow is integrated after ``fit``.
    max_iter : int or "auto", default="auto"
        Optimiser steps on the quadratic loss.  ``"auto"``: half the number of distinct rows, at least 100
        and at most 800; on CUDA 20 passes over the rows where that is more.
    polish : int or "auto", default="auto"
        Largest number of optimiser steps on the likelihood, after the quadratic stage; 0 switches the stage
        off.  It needs validation rows.  ``"auto"``: 3 times ``max_iter`` where that is given, otherwise as
        many as take less than a minute on one core for the width of the network, at most 5000; on CUDA 20
        passes over the rows, at least 5000.
    batch_size : int or "auto", default="auto"
        Rows per step of the quadratic loss; a step on the likelihood takes a quarter of them, at least 128;
        never more than there are training rows.
        ``"auto"``: 512; on CUDA a sixty-fourth of the distinct rows, between 512 and 4096.
    learning_rate_init : float, default=3e-3
        Peak learning rate.
    weight_decay : float, default=0.5
        Decoupled weight decay of the matrices that act on y and on the context.
    ema_decay : float, default=0.99
        The weights that are validated and kept are an exponential average with this decay.
    early_stopping : bool or "auto", default="auto"
        Keep validation rows aside, follow their exact log-density, restore the best weights.  ``"auto"``:
        from 100 distinct rows on.  Without it there is no polish.
    validation_fraction : float, default=0.1
        Share of the distinct rows kept for validation, at most 2048 rows.
    n_iter_no_change : int, default=10
        Validations without an improvement by ``tol`` before the learning rate falls (twice, then the
        polish ends); half as many after the first fall.  A score that climbs out of the dip with which the
        polish begins improves; more than half as many are enough where it falls ever faster.  Twice as many
        as for :class:`~siflow_sk.InterpolantFlow`: on some tables the polish loses at first what it gains
        later.
    tol : float, default=1e-3
        Improvement of the mean validation log-density, in nats, that counts.
    warm_start : bool, default=False
        Go on from the present network, preprocessors and categories instead of new ones.
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
    interpolant_, velocity_, preprocessor_, context_preprocessor_, solver_, base_ : object
        The parts as ``fit`` made them.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Only when X had column names that are strings.
    n_outputs_ : int
        Columns of y.
    n_networks_ : int
        Networks whose mean ``velocity_`` is.  What is told of training is of the first of them.
    categories_ : dict
        Number of a categorical column of X -> its levels.
    constant_targets_ : ndarray of int
        Columns of y without spread; they carry no density.
    n_iter_, loss_curve_, polish_loss_curve_, validation_scores_, best_validation_score_ : object
        As for :class:`~siflow_sk.InterpolantFlow`.
    best_iteration_, quadratic_validation_score_, batch_size_, max_iter_, polish_, weight_decay_ : object
        As for :class:`~siflow_sk.InterpolantFlow`.
    early_stopping_, device_ : object
        As for :class:`~siflow_sk.InterpolantFlow`.

    Notes
    -----
    ``score`` is the mean log-density and not the coefficient of determination of other regressors: a grid
    search then chooses the density, not the mean.  The tag ``regressor_tags.poor_score`` says so to
    scikit-learn, whose check would compare it with 0.5;
    ``sklearn.metrics.r2_score(y, model.predict(X))`` is the other figure.

    References
    ----------
    .. [1] M. S. Albergo, E. Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants",
       ICLR 2023, arXiv:2209.15571.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import ConditionalInterpolantFlow
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1.0, 1.0, size=(400, 1))
    >>> y = np.sin(3.0 * X[:, 0]) + (0.1 + 0.2 * (X[:, 0] > 0)) * rng.normal(size=400)
    >>> model = ConditionalInterpolantFlow(max_iter=100, polish=50, random_state=0).fit(X, y)
    >>> model.score_samples(X[:3], y[:3]).shape
    (3,)
    >>> model.predict_interval([[-0.5], [0.5]], coverage=0.9).shape
    (2, 2)
    >>> model.sample([[-0.5], [0.5]], n_samples=5, random_state=1).shape
    (2, 5)
    """

    _slots = {
        "interpolant": INTERPOLANTS,
        "velocity": CONDITIONAL_VELOCITIES,
        "preprocessor": PREPROCESSORS,
        "context_preprocessor": PREPROCESSORS,
        "solver": SOLVERS,
    }
    _part_methods = PART_METHODS | {"context_preprocessor": ("fit", "forward")}

    _parameter_constraints = {
        "interpolant": slot_constraints("interpolant", INTERPOLANTS),
        "velocity": slot_constraints("velocity", CONDITIONAL_VELOCITIES),
        "preprocessor": slot_constraints("preprocessor", PREPROCESSORS),
        "context_preprocessor": slot_constraints("preprocessor", PREPROCESSORS),
        "solver": slot_constraints("solver", SOLVERS),
        **TRAINING_CONSTRAINTS,
        "n_networks": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "warm_start": ["boolean"],
    }

    warm_start, n_networks = False, "auto"  # of files from before there was a choice

    def __init__(
        self,
        *,
        interpolant="trigonometric",
        velocity="mlp",
        n_networks="auto",
        preprocessor="gaussianize",
        context_preprocessor="gaussianize",
        solver="grid",
        max_iter="auto",
        polish="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        weight_decay=0.5,
        ema_decay=0.99,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-3,
        warm_start=False,
        inference_dtype="auto",
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.interpolant = interpolant
        self.velocity = velocity
        self.n_networks = n_networks
        self.preprocessor = preprocessor
        self.context_preprocessor = context_preprocessor
        self.solver = solver
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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, checkpoint=None):
        """Fit the flow to the rows of X and y.

        A fit that fails, on bad input or anything else, leaves the estimator as it was, fitted or not.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers; a DataFrame may also have columns of categories or text.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Weights; a whole number means the same as repeating the row.
        checkpoint : str, path-like or Checkpoint, default=None
            A file that is written as training goes on, and that training goes on from when it is there
            already, as in :meth:`InterpolantFlow.fit <siflow_sk.InterpolantFlow.fit>`.

        Returns
        -------
        self : ConditionalInterpolantFlow
            The fitted estimator.

        Raises
        ------
        ValueError
            NaN or infinity in X or y, X and y of different length, constant y, a parameter that cannot be
            used, a velocity that takes no context, a checkpoint of other data or parameters; with
            ``warm_start`` also columns or categories that the first fit did not see.
        TypeError
            Sparse or structured input, dates.
        """
        twin = self._twin()
        continues = self.warm_start and self.__sklearn_is_fitted__()
        twin._fit(X, y, sample_weight, continues, checkpoint)
        self.__dict__ = twin.__dict__
        return self

    def _fit(self, X, y, sample_weight, continues, checkpoint):
        parts = self._parts(continues)
        if "n_context" not in inspect.signature(parts["velocity"].build).parameters:
            raise ValueError(
                f"velocity={self.velocity!r} takes no context: its build needs a parameter n_context, and "
                f"what it builds a method given(c); or pass one of {sorted(CONDITIONAL_VELOCITIES)}."
            )
        _likelihood.rehearse(parts["solver"])
        device = _tensors.resolve_device(self.device)
        checkpoint, seed = self._open(checkpoint)
        table = self._table if continues else Table()
        numbers = table.read(self, X) if continues else table.fit(self, X)
        y = self._check_target(y, len(numbers)) if continues else _tensors.check_target(self, y, len(numbers))
        targets = y[:, None] if y.ndim == 1 else y
        weight = _check_sample_weight(sample_weight, numbers, dtype=np.float64, ensure_non_negative=True)
        if not weight.sum() > 0:
            raise ValueError("sample_weight: at least one weight must be greater than zero.")
        rows, weight, n_draws = _tensors.canonical(np.concatenate([numbers, targets], axis=1), weight)
        numbers, targets = np.split(rows, [numbers.shape[1]], axis=1)
        if not np.ptp(targets, axis=0).any():
            raise ValueError(f"y is constant ({targets[0]}): there is no density to estimate.")
        if continues:
            context = self._context
        else:
            self._note_targets(targets, y.ndim == 1)
            context = ContextMap(parts["context_preprocessor"], table.n_numbers).fit(numbers, weight)
        if checkpoint is not None:
            start = [self.preprocessor_, self.base_, self.velocity_, table, context] if continues else None
            call = self._call({"X and y": rows}, weight, n_draws, start, device)
            checkpoint.belongs_to(call, seed)

        z, w = _tensors.to_tensor(targets[:, self._active]), _tensors.to_tensor(weight)
        check_ends(parts["interpolant"], z.shape[1])
        n_networks = 1
        if not continues:
            n_networks, parts["velocity"] = networks_of(self, *z.shape, parts)
        settings, stop_early = make_settings(self, *z.shape, n_draws, parts["velocity"], device)
        made = fit_parts(
            parts | {"base": StandardNormal(), "coupling": Independent()},
            z,
            w,
            n_draws,
            settings,
            fraction=self.validation_fraction if stop_early else None,
            seed=seed,
            device=device,
            verbose=self.verbose,
            fitted=(self.preprocessor_, self.base_, self.velocity_) if continues else None,
            checkpoint=checkpoint,
            context=context.forward(numbers),
            n_networks=n_networks,
        )
        network = self._for_inference(made.network)
        data = made.trainer.data
        reference = (
            part if held is None else torch.cat([held, part])
            for held, part in ((data.x_valid, data.x), (data.context_valid, data.context))
        )
        points, contexts = (part[:256] for part in reference)
        self.solver_ = self._calibrate(network, made.base, parts["solver"], points, contexts)

        self._table, self._context, self._network_dtype = table, context, next(network.parameters()).dtype
        if not continues:
            self.n_networks_ = made.n_networks
        self.categories_ = dict(table.levels)
        self.interpolant_, self.base_, self.velocity_ = made.interpolant, made.base, network
        self.preprocessor_, self.context_preprocessor_ = made.preprocessor, context.preprocessor
        self.device_ = str(device)
        self._record(made.trainer, settings, stop_early, False)

    def _note_targets(self, targets, one_dimensional):
        """Which of the targets carry a density; the others are constant."""
        names = ["y"] if one_dimensional else [f"y[:, {j}]" for j in range(targets.shape[1])]
        active, constant = _tensors.split_constant(targets, names)
        inner = [name for name, ok in zip(names, active, strict=True) if ok]
        for message in _tensors.about_lattices(targets[:, active], inner):
            warnings.warn(f"{message}.", DataWarning, stacklevel=5)
        self._active, self._constant, self._one_dimensional = active, constant, one_dimensional
        self._spread = np.ptp(targets[:, ~active], axis=0)
        self.n_outputs_, self.constant_targets_ = len(active), np.flatnonzero(~active)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True  # score is a log-density, not a share of the variance
        return tags
