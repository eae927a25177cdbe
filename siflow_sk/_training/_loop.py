"""The loop: two stages of steps, averaged weights, what validation makes of them, early stopping."""

import copy
import functools
import itertools
import math
import time
import warnings

import torch
from tqdm.auto import tqdm

from .._capture import Recorded
from .._objective import likelihood_loss, path_gain, quadratic_loss
from ..couplings import Independent
from ..exceptions import TrainingWarning
from ..velocities import given
from . import _resume, _together
from ._data import DONE, History, Standing, Stretch
from ._draws import Draws, jittered_knots, stratified_times
from ._optimiser import Optimiser
from ._validation import Validation


class Trainer:
    """Train ``network``; after each stage it holds the best weights seen on validation rows."""

    def __init__(self, network, base, interpolant, data, settings, generator, verbose=0, coupling=None):
        self.network, self.base, self.interpolant = network, base, interpolant
        self.data, self.settings, self.generator, self.verbose = data, settings, generator, verbose
        self.average = copy.deepcopy(network)
        self.validation = Validation(data, base, self.average)
        self.history = History()
        self.draws = Draws(data, base, Independent() if coupling is None else coupling, generator)
        self.best_score, self.best_iteration, self.best = -math.inf, 0, None
        self.course = []  # stretches that led to the best weights
        self.regressed = None  # log-densities of the validation rows after the first stage, once asked for
        self.iteration, self.rate = 0, 0.0
        self.interrupted = False
        self.start = time.perf_counter()
        self.standing, self.optimiser, self.moving = Standing(), None, self._moving()
        self.between_steps = _nothing  # called where training could be taken up again
        self.seat = None  # among trainers that do their steps together
        self.rival = None  # a trainer of another candidate that is done
        self.random = None  # the generator's state at the end of a stage, or where to take it up again

    # -- the two stages ---------------------------------------------------------------------------------

    def regress(self, rival=None):
        """The first stage: the quadratic loss; it ends early where a trainer that is done stays ahead."""
        self.rival = rival
        if self.standing.stage not in ("start", "quadratic"):  # done before the checkpoint
            return self
        return self._stage(self._quadratic, self.settings.n_quadratic)

    def polish(self):
        """The second stage: likelihood, where validation rows guard it; then the best weights."""
        wanted = self.settings.n_polish and not self.interrupted and self.standing.stage != "polished"
        if wanted and self._can_polish():
            if self.standing.stage == "polish":  # candidates that follow this one have drawn numbers since
                self.generator.set_state(self.random)
            self._stage(self._polish, self.settings.n_polish)
        return self

    def follow(self, course):
        """Instead of both: the steps that led another trainer to its best weights, unguarded."""
        if self.standing.stage == "followed":
            return self
        return self._stage(self._follow, sum(stretch.last - stretch.first for stretch in course), course)

    @property
    def polished(self):
        """Steps on the likelihood that led to the best weights."""
        return sum(stretch.last - stretch.first for stretch in self.course if stretch.stage == "polish")

    def _stage(self, stage, n_steps, *args):
        """Run a stage under a progress bar; an interrupt keeps the best weights so far."""
        name = stage.__name__.strip("_")
        with tqdm(total=n_steps, disable=not self.verbose, desc=name, leave=False) as progress:
            try:
                stage(progress, *args)
            except KeyboardInterrupt:
                if not self.iteration:
                    raise
                self.interrupted = True
                if not self.history.checks:  # rare where there are many rows
                    self._check(name, progress)
                warnings.warn(
                    f"Training interrupted after {self.iteration} iterations; "
                    "the best weights so far are kept.",
                    TrainingWarning,
                    stacklevel=6,
                )
        self._stand_up()
        self._restore()
        self.standing.stage = DONE[name]
        self.random = self.generator.get_state()
        return self

    def _enter(self, stage, progress):
        """Begin a stage, unless a checkpoint brought us into the midst of it."""
        if self.standing.stage != stage:
            self.standing = Standing(stage, reference=self.best_score, kept=len(self.course))
            self._start_afresh()
        progress.update(self.standing.step)
        return self.standing

    def _start_afresh(self):
        """Averages of weights from the present ones on, and no momentum."""
        self.average.load_state_dict(self.network.state_dict())
        self.optimiser = self.new_optimiser()

    def _quadratic(self, progress):
        s = self.settings
        here, at_rest = self._enter("quadratic", progress), math.ceil(s.path_share * s.n_quadratic)
        update = self._quadratic_update()
        every = max(1, s.n_quadratic // s.checks, min(20, s.n_quadratic // 5), self.validation.n_rows // 10)
        for step in range(here.step, s.n_quadratic):
            here.step = step
            self.between_steps()
            self.history.loss.append(self._quadratic_step(update, step))
            if self.moving and step == at_rest:
                self.best_score, self.best = -math.inf, None  # of a path that has moved since
            for part, optimiser in self.moving:
                if step < at_rest and (step + 1) % part.n_velocity_steps == 0:
                    self._move(part, optimiser, 1.0 - step / at_rest)
            progress.update()
            if (step + 1) % every == 0 or step + 1 == s.n_quadratic:
                self._check("quadratic", progress)
                if self._is_beaten(step + 1, every):
                    break

    def _quadratic_update(self):
        # whatever follows from the draws is left to the update, which may be recorded or shared
        def loss(velocity, noise, *inputs):
            return quadratic_loss(velocity, self.interpolant, stratified_times(noise), *inputs)

        return self._take_part(loss, "quadratic", self.interpolant)

    def _quadratic_step(self, update, step):
        s = self.settings
        rate = s.learning_rate * (_warm_cosine(step, s.n_quadratic) if s.anneal else 1.0)
        x0, x1, context = self.draws.pairs(min(s.batch_size, self.data.n_draws))
        noise = self.draws.uniform(len(x1), x1)
        latent = [self.draws.normal(x1)] if hasattr(self.interpolant, "variance") else []  # where a gamma is
        return self._step(update, rate, noise, x0, x1, *latent, *context)

    def _is_beaten(self, done, every):
        """Whether the rival would stay ahead if its lead went on shrinking as it did, after a quarter.

        Leads shrink ever more slowly, so a straight line is generous to who is behind.
        """
        if self.rival is None or done < max(2 * every, 0.25 * self.settings.n_quadratic):
            return False
        pairs = zip(self.rival.history.checks, self.history.checks, strict=False)
        leads = [theirs["score"] - ours["score"] for theirs, ours in pairs if theirs["stage"] == "quadratic"]
        left = (self.settings.n_quadratic - done) / (done - every)
        return leads[-1] > max(0.0, (leads[0] - leads[-1]) * left)

    def _moving(self):
        """The parts that are learnt beside the velocity, each with an Adam for its coefficients."""
        parts = [part for part in (self.interpolant, self.base) if hasattr(part, "n_velocity_steps")]
        if self.base in parts and hasattr(self.interpolant, "variance"):
            raise ValueError(
                f"base={self.base!r} is learnt, which is done without noise only; pass interpolant="
                f"{self.interpolant.interpolant!r} or base='gaussian'."
            )
        for part in parts:
            if not hasattr(part, "coefficients_"):
                part.start()
            part.coefficients_ = part.coefficients_.to(self.data.x.device)
        return [(part, torch.optim.Adam([part.coefficients_], maximize=True)) for part in parts]

    def _move(self, part, optimiser, share):
        """One step of a part towards less kinetic energy, on pairs of its own, with the velocity held."""
        part.coefficients_.requires_grad_(True)
        x0, x1, context = self.draws.pairs(self.settings.batch_size)
        t = stratified_times(self.draws.uniform(len(x1), x1))
        gain = path_gain(given(self.network, *context), self.interpolant, t, x0, x1)
        (part.coefficients_.grad,) = torch.autograd.grad(gain, part.coefficients_)
        optimiser.param_groups[0]["lr"] = part.learning_rate * share
        optimiser.step()
        part.coefficients_.grad = None
        part.coefficients_.requires_grad_(False)
        part.check()

    def _polish(self, progress):
        """Likelihood through a short grid, starting from the best weights of the first stage."""
        s = self.settings
        here = self._enter("polish", progress)
        if here.step == 0:
            here.n_steps, here.penalty = self._steps_and_penalty()
        update = self._polish_update()
        passes = math.ceil(self.data.n_draws / s.polish_batch_size)
        every = max(1, min(s.n_polish // s.checks, min(50, max(10, 5 * passes))))
        every = max(every, s.n_polish // 250, self.validation.n_rows // 20)
        for step in range(here.step, s.n_polish):
            here.step = step
            self.between_steps()
            self.history.polish_loss.append(self._polish_step(update, step, here))
            progress.update()
            if (step + 1) % every == 0 or step + 1 == s.n_polish:
                self._check("polish", progress)
                improved = self.best_score > here.reference + s.tol
                here.reference = self.best_score if improved else here.reference
                here.waited = 0 if improved or self._is_climbing() else here.waited + 1
                diverged = self.history.checks[-1]["score"] < self.best_score - s.fall
                patience = s.patience if here.reductions == 0 else max(1, s.patience // 2)
                if here.waited >= patience or diverged or self._is_falling():
                    if (here.reductions == s.n_reductions and not diverged) or here.factor < 1e-3:
                        break
                    here.factor, here.waited = here.factor * s.reduction, 0
                    here.reductions += not diverged
                    self._restore()
                    self._start_afresh()  # without the momentum that led away
                    here.kept, here.first = len(self.course), step + 1
                    update = self._polish_update()

    def _polish_update(self):
        def loss(velocity, x, noise, penalty):
            return likelihood_loss(velocity, self.base, x, jittered_knots(noise), penalty)

        return self._take_part(loss, "polish", self.base)

    def _polish_step(self, update, step, here):
        """``here``: what has the learning rate's factor, the Runge-Kutta steps and the penalty."""
        s = self.settings
        rate = here.factor * s.learning_rate * _warm_cosine(step, s.n_polish)
        x, context = self.draws.rows(min(s.polish_batch_size, self.data.n_draws))
        noise = self.draws.uniform(here.n_steps + 1, x)
        penalty = x.new_full((1,), here.penalty)  # an input: trainers may differ in it and meet
        return self._step(update, rate, x, noise, penalty, *context)

    def _follow(self, progress, course):
        here, begin = self._enter("follow", progress), 0
        for stretch in course:
            end = begin + stretch.last - stretch.first
            if here.step < end:  # else done before the checkpoint
                if here.step <= begin:
                    self._start_afresh()
                polishes = stretch.stage == "polish"
                update = self._polish_update() if polishes else self._quadratic_update()
                for done in range(max(begin, here.step), end):
                    here.step = done
                    self.between_steps()
                    step = stretch.first + done - begin
                    if polishes:
                        self._polish_step(update, step, stretch)
                    else:
                        self._quadratic_step(update, step)
                    progress.update()
                self._stand_up()
                self.network.load_state_dict(self.average.state_dict())
            begin = end

    def _is_climbing(self):
        """Whether the latest check is the best since the learning rate fell, or the polish began.

        It begins with a dip, because the quadratic loss wants other weights.
        """
        here = self.standing
        begin = self.iteration - (here.step + 1 - here.first)
        *before, latest = [c["score"] for c in self.history.checks if c["iteration"] > begin]
        return bool(before) and latest > max(before) + self.settings.tol

    def _is_falling(self):
        """Whether the latest checks, more than half of those to wait for, fell ever faster.

        The patience is for scores that go up and down, or that dip when the likelihood takes over.  A few
        hundred rows may be overfitted from the first step on.
        """
        n = self.settings.patience // 2 + 1
        scores = [check["score"] for check in self.history.checks[-n - 1 :]]
        falls = [self.settings.tol, *(last - score for last, score in itertools.pairwise(scores))]
        return self.standing.waited >= n and all(a < b for a, b in itertools.pairwise(falls))

    def _steps_and_penalty(self):
        """Runge-Kutta steps of the likelihood loss, two if they can follow the field, and its penalty.

        A network may ask for more steps and another penalty from the start, ``polishing``.

        Heavy tails (patches of images, drifting sensors) leave a field on which two steps are nats away from
        the truth and the step error outweighs the likelihood a thousand times.  Polish then only lowers that
        error: on 60,000 rows of BSDS300 it lost 10 nats in 250 steps, and gained 2.4 with four steps and a
        penalty of 1.
        """
        x, context = self.data.x_valid[:512], self.data.context_valid
        least, penalty = getattr(self.network, "polishing", (2, self.settings.polish_penalty))
        with torch.no_grad():
            velocity = given(self.network, None if context is None else context[:512])
            for n_steps in (n for n in (2, 3, 4, 6, 8) if n >= least):
                knots = torch.linspace(1.0, 0.0, n_steps + 1, device=x.device, dtype=x.dtype)
                plain, charged = (likelihood_loss(velocity, self.base, x, knots, p) for p in (0.0, 1.0))
                roughness = float(charged - plain)
                if roughness <= 300.0:
                    break
        share = min(1.0, 20.0 / roughness) if roughness > 0 else 1.0  # NaN: 1
        return n_steps, penalty * share**2

    def _can_polish(self):
        """Polish needs a validation guard, a finite likelihood, and a base with a gradient."""
        if self.data.x_valid is None or not math.isfinite(self.best_score):
            return False
        x = self.data.x[:2].clone().requires_grad_(True)
        return self.base.log_prob(x).requires_grad

    # -- one step ---------------------------------------------------------------------------------------

    def new_optimiser(self):
        return Optimiser(self.network, self.settings.weight_decay)

    def _at_context(self, loss):
        """``loss(velocity, *inputs)``, whose last input is the context where there is one."""
        if self.data.context is None:
            return loss
        return lambda velocity, *inputs: loss(given(velocity, inputs[-1]), *inputs[:-1])

    def _take_part(self, loss, *rests_on):
        """The update for ``loss(velocity, *inputs)``: with other trainers where they meet, else alone."""
        self._stand_up()
        loss = self._at_context(loss)
        if self.between_steps is _nothing:  # checkpoints are of a trainer that stands alone
            self.seat = _together.seat(self, loss, *rests_on)
        return self._update(functools.partial(loss, self.network)) if self.seat is None else self.seat

    def _stand_up(self):
        if self.seat is not None:
            self.seat.release()
            self.seat = None
            self.validation.forget()  # records of where the weights were

    def _update(self, loss):
        """One step of the present optimiser, ``(rate, decay, *inputs) -> loss``."""
        s, optimiser = self.settings, self.optimiser
        parameters, averages = list(self.network.parameters()), list(self.average.parameters())

        def update(rate, decay, *inputs):
            for p in parameters:
                p.grad = None
            value = loss(*inputs)
            value.backward()
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            # a non-finite gradient becomes zero instead of reaching the weights; no host synchronisation
            scale = (s.clip / (norm + 1e-6)).clamp_max(1.0).nan_to_num(0.0)
            for g in gradients:
                g.nan_to_num_(0.0, 0.0, 0.0).mul_(scale)
            optimiser.step([p.grad for p in parameters], rate)
            with torch.no_grad():
                for average, parameter in zip(averages, parameters, strict=True):
                    average.lerp_(parameter, 1.0 - decay)
            return value.detach()

        return Recorded(update, rounded=True)

    def _step(self, update, rate, *inputs):
        """One update.  On CUDA learning rate and decay of one alone are tensors, which a record needs."""
        k = self.iteration + 1
        numbers = rate, min(self.settings.ema_decay, (k + 1) / (k + 10))
        if self.seat is None and inputs[0].is_cuda:
            numbers = [inputs[0].new_full((), number) for number in numbers]
        loss = update(*numbers, *inputs)
        self.iteration, self.rate = k, rate
        return loss

    # -- validation -------------------------------------------------------------------------------------

    def _check(self, stage, progress):
        if self.seat is not None:
            self.seat.catch_up()
        score = self._score()
        self.history.checks.append(
            {
                "stage": stage,
                "iteration": self.iteration,
                "score": score,
                "learning_rate": self.rate,
                "seconds": time.perf_counter() - self.start,
            }
        )
        # where no score was finite there is nothing to compare by: the latest weights are kept
        if score > self.best_score or not math.isfinite(self.best_score):
            self.best_score, self.best_iteration = score, self.iteration
            here, self.best = self.standing, self._averages()
            stretch = Stretch(here.stage, here.first, here.step + 1, here.factor, here.n_steps, here.penalty)
            self.course = [*self.course[: here.kept], stretch]
        progress.set_postfix_str(f"{stage}, validation {score:.3f}, best {self.best_score:.3f} nats")

    def _score(self):
        """Mean log-density of the validation rows, in the units of X, by the averaged weights."""
        score = self.validation.score(self.seat)
        return score if math.isfinite(score) else -math.inf

    def regressed_log_density(self):
        """Of every validation row, in the units of X, by the best weights of the first stage.

        Asked for before the second stage, and known in that.
        """
        if self.regressed is None:
            self.average.load_state_dict(self.network.state_dict())
            self.regressed = self.validation.log_density()
        return self.regressed

    def _averages(self):
        return {name: value.clone() for name, value in self.average.state_dict().items()}

    def _restore(self):
        if self.best is not None:
            self.network.load_state_dict(self.best)

    # -- taking training up again -----------------------------------------------------------------------

    def state(self):
        """All that a new trainer needs to go on as this one would, as plain values and tensors."""
        return _resume.state_of(self)

    def load_state(self, state):
        """Take up what ``state()`` of a trainer with the same parts and settings returned."""
        _resume.take_up(self, state)


def _nothing():
    pass


def _warm_cosine(step, n_steps, warm=50, end=0.05):
    """Linear warm-up, then half a cosine down to ``end``."""
    return min(1.0, (step + 1) / warm) * (
        end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * step / n_steps))
    )
