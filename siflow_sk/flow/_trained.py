"""What the estimators share that a training made: parameters, parts, the record, all or nothing."""

import math
import warnings
from numbers import Integral, Real

import torch
from sklearn.utils.validation import check_is_fitted

from .. import _likelihood, _tensors
from .._compat import HasMethods, Interval, StrOptions
from .._component import SlotsMixin, resolve
from .._training import leave, solved_together
from .._version import __version__
from ..bases import as_base
from ..exceptions import DeviceWarning, TrainingWarning
from ..persistence import OpenCheckpoint, SaveMixin, digest_of, in_words

PART_METHODS = {
    "interpolant": ("alpha", "beta", "point", "velocity"),
    "base": ("fit", "log_prob", "sample"),
    "coupling": ("pair",),
    "velocity": ("build",),
    "preprocessor": ("fit", "forward", "inverse"),
    "solver": ("integrate",),
}

TRAINING_CONSTRAINTS = {
    "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "polish": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "ema_decay": [Interval(Real, 0, 1, closed="left")],
    "early_stopping": ["boolean", StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "inference_dtype": [StrOptions({"auto", "float64", "float32"})],
    "device": [str],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


def slot_constraints(slot, table):
    """A name of the table, or an object with the methods of a part; ``resolve`` looks closer."""
    methods = ["sample"] if slot == "base" else list(PART_METHODS[slot])
    return [StrOptions(set(table)), HasMethods(methods), *([None] if "none" in table else [])]


def warn_of_lost_steps(losses, rate):
    """Steps whose loss was not finite changed nothing; say how many there were."""
    lost = sum(not math.isfinite(loss) for loss in losses)
    if lost:
        warnings.warn(
            f"{lost} steps had a non-finite loss and were left out; lower learning_rate_init={rate}.",
            TrainingWarning,
            stacklevel=6,
        )


def warn_of_early_end(checks, parameters):
    """Say when numbers of steps that were asked for ended while the validation score was still rising.

    That is by more than ``tol`` at each of the last ``n_iter_no_change`` validations, on average.
    """
    given = [
        f"{name}={value}"
        for name in ("max_iter", "polish")
        if (value := getattr(parameters, name)) not in ("auto", 0)
    ]
    n, scores = parameters.n_iter_no_change, [c["score"] for c in checks]
    if not given or len(scores) < 2:
        return
    rise = max(scores) - max(scores[:-n] or scores[:1])
    if rise > parameters.tol * min(n, len(scores) - 1):
        warnings.warn(
            f"{' and '.join(given)}: the steps ended while the log-density of the validation rows was still "
            f"rising, by {rise:.3g} nats in the last {min(n, len(scores) - 1)} validations; give more, or "
            '"auto".',
            TrainingWarning,
            stacklevel=6,
        )


class PartsMixin(SaveMixin, SlotsMixin):
    """Of an estimator whose parts are slots and that holds networks."""

    _part_methods = PART_METHODS

    def _twin(self):
        """The same attributes in another object, to fit: a failure leaves no trace, a success is one step."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def _resolve(self, slot):
        value = getattr(self, slot)
        value = as_base(value) if slot == "base" else value
        return resolve(slot, value, self._slots[slot], self._part_methods[slot])

    def _inference_dtype(self):
        return torch.float32 if self.inference_dtype == "float32" else torch.float64

    def _for_inference(self, network):
        return network.to(self._inference_dtype()).eval().requires_grad_(False)

    def _calibrate(self, *of_the_flow):
        may_round = self.inference_dtype == "auto"
        solver = _likelihood.calibrate(*of_the_flow, may_round=may_round, share=solved_together)
        leave()
        return solver

    def _place(self, device):
        if not self.__sklearn_is_fitted__():
            return
        there = _tensors.resolve_device(device)
        if device == "auto" and there.type == "cpu" and not self.device_.startswith("cpu"):
            warnings.warn(
                f"{type(self).__name__} was fitted on {self.device_!r}, which is not here; "
                "it works on the CPU now.",
                DeviceWarning,
                stacklevel=4,
            )
        for network in self._networks():
            network.to(there)
        self.device_ = str(there)

    def _networks(self):
        return [self.velocity_]

    def __sklearn_is_fitted__(self):
        return hasattr(self, "velocity_")


class TrainedMixin(PartsMixin):
    """Of an estimator with one network, which one :class:`Trainer` made in both stages."""

    def _parts(self, continues):
        """Fresh parts; a path that was learnt goes on where it is the one that is asked for."""
        parts = {slot: self._resolve(slot) for slot in self._slots}
        if continues and repr(self.interpolant_) == repr(parts["interpolant"]):
            parts["interpolant"] = self.interpolant_  # with what it has learnt
        return parts

    def _open(self, checkpoint):
        """The checkpoint of this call of ``fit``, or None, and the seed: that of the fit that it takes up."""
        checkpoint = None if checkpoint is None else OpenCheckpoint(checkpoint)
        resumes = checkpoint is not None and self.random_state is None and checkpoint.seed is not None
        return checkpoint, checkpoint.seed if resumes else _tensors.draw_seed(self.random_state)

    def _call(self, tables, weight, n_draws, start, device):
        """What a checkpoint must agree with, name to text; ``start`` is the model to go on from, or None."""
        leave = ("random_state", "verbose", "device", "inference_dtype")
        parameters = {k: v for k, v in self.get_params(deep=False).items() if k not in leave}
        return {
            "class": type(self).__name__,
            **{name: in_words(value, f"{type(self).__name__}.{name}") for name, value in parameters.items()},
            **{name: f"{len(a)} x {a.shape[1]} distinct, {digest_of(a)}" for name, a in tables.items()},
            "sample_weight": f"{n_draws} in all, {digest_of(weight)}",
            "the model to go on from": in_words(start, "start"),
            "device": str(device),
            "torch": str(torch.__version__),
            "siflow_sk": __version__,
        }

    def _record(self, trainer, settings, stop_early, append):
        history = trainer.history
        losses, polish = ([float(v) for v in c] for c in (history.loss, history.polish_loss))
        self.loss_curve_ = [*self.loss_curve_, *losses] if append else losses
        self.polish_loss_curve_ = polish
        self._checks = history.checks if stop_early else []
        self.validation_scores_ = [c["score"] for c in self._checks]
        finite = stop_early and math.isfinite(trainer.best_score)
        self.best_validation_score_ = trainer.best_score if finite else None
        quadratic = [c["score"] for c in self._checks if c["stage"] == "quadratic"]
        self.quadratic_validation_score_ = max(quadratic) if finite and quadratic else None
        self.best_iteration_ = trainer.best_iteration
        self.n_iter_ = trainer.iteration + (self.n_iter_ if append else 0)
        self.batch_size_, self.max_iter_ = settings.batch_size, settings.n_quadratic
        self.polish_, self.early_stopping_ = settings.n_polish, stop_early
        self.weight_decay_ = settings.weight_decay
        warn_of_lost_steps(losses, self.learning_rate_init)
        if not trainer.interrupted:
            warn_of_early_end(self._checks, self)

    @property
    def history_(self):
        """Validations as a DataFrame: stage, iteration, score (nats), learning_rate, seconds."""
        import pandas as pd

        check_is_fitted(self)
        columns = ["stage", "iteration", "score", "learning_rate", "seconds"]
        return pd.DataFrame(self._checks, columns=columns)
