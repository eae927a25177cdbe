"""What training runs on: budgets, validation rows, candidates for the preprocessor."""

import copy
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ..exceptions import TrainingWarning
from ..velocities import MLP, Average, ConditionalMLP
from . import _meeting
from ._data import Data, Settings
from ._draws import Batches
from ._loop import Trainer

# The most networks and the rows up to which they are worth their time: of up to so many columns, and of more,
# where four take longer over a log-density than one of twice the width (benchmarks speed).
_COLUMNS, _OF_FEW, _OF_MANY = 20, ((8000, 4),), ((400, 4), (1000, 1), (8000, 2))
_FROM, _TO = 500, 2000  # the rows between which four are worth it in a conditional flow
_FEW, _POLISH_OF_ONE = 2000, 2200  # steps for more rows than few, of which no overfitting makes an end
_UNSURE = 1000  # rows up to which the first stage says too little about two preprocessors
_PRIOR = 15  # validation rows that the Gaussian copula counts for where preprocessors are compared
_DECAY = 0.5  # of the weights, where rows are many or not known


@dataclass
class Fitted:
    """The parts that training made, and its record."""

    preprocessor: object
    base: object
    interpolant: object
    network: torch.nn.Module
    trainer: Trainer
    n_networks: int


def affordable_batch(n, device):
    """Rows per step of the quadratic loss: 512; a GPU is not filled by so few, and takes up to 4096."""
    return 512 if device.type == "cpu" else min(4096, max(512, n // 64))


def affordable_polish(n_features, velocity, n_draws, batch_size, device):
    """Steps on the likelihood: under a minute on a core, at most 5000; on a GPU 20 passes over the rows."""
    if device.type != "cpu":
        return max(5000, math.ceil(20 * n_draws / polish_batch(batch_size, n_draws)))
    n_angles, velocity = len(getattr(velocity, "angular", ())), getattr(velocity, "velocity", velocity)
    width, blocks = getattr(velocity, "width", 256), getattr(velocity, "n_blocks", 4)
    # multiply-adds of one row's velocity and divergence, plus what does not depend on the width squared
    work = blocks * ((2 + n_angles) * width**2 + 3 * width * n_features + 100 * width)
    work *= 2 if n_angles else 1  # Runge-Kutta steps, four instead of two
    return int(min(5000, 1900 * 1.6e5 / work))


def polish_batch(batch_size, n):
    """Rows per step on the likelihood: a quarter of those of the quadratic loss, at least 128.

    Of fewer than 768 rows a sixth, at least 64: the noise of small batches keeps from overfitting.
    """
    few = max(64, n // 6)
    return few if few < 128 else max(128, batch_size // 4)


def strong_decay(n):
    """Weight decay for ``n`` distinct rows: the fewer they are, the more a network learns by heart.

    Of 300 rows 4 is better than 0.5 on most open tables, 16 worse on all.  From 1000 rows on 2 still gains on
    most, but a table with thin ridges (concrete) loses far more than they gain.
    """
    return min(4.0, _DECAY * max(1.0, 1000.0 / n) ** 2)


def networks_of(estimator, n, d, parts):
    """How many networks to average, and the recipe of each, for ``n`` distinct rows of ``d`` columns.

    Of few rows four networks of half the width: as many multiplications as one of the full width, in about
    twice the time, and each overfits in another way.  Better on most open tables, by 0.2 nats on average for
    300 and 1000 rows.  Of more rows each needs more steps, and there are as many networks as the time allows,
    two at least.  The network of a conditional flow is narrow as it is, and four for 300 rows are no better
    than one.  One where a path or a base is learnt: each would have its own.
    """
    wanted, velocity = estimator.n_networks, parts["velocity"]
    learnt = [slot for slot in ("interpolant", "base") if hasattr(parts.get(slot), "n_velocity_steps")]
    if wanted == "auto":
        if not (isinstance(estimator.velocity, str) and estimator.velocity == "mlp") or learnt:
            return 1, velocity
        if isinstance(velocity, ConditionalMLP):
            return 4 if _FROM < n <= _TO else 1, velocity
        bounds = _OF_FEW if d <= _COLUMNS else _OF_MANY
        wanted = next((n_networks for most, n_networks in bounds if n <= most), 1)
        return wanted, velocity if wanted == 1 else MLP(width=velocity.width // 2)
    if wanted > 1 and learnt:
        raise ValueError(
            f"n_networks={wanted!r}: {learnt[0]}={parts[learnt[0]]!r} is learnt, and each network would have "
            'one of its own, so that their mean would belong to none; pass n_networks=1 or "auto".'
        )
    return int(wanted), velocity


def make_settings(estimator, n, d, n_draws, velocity, device, *, n_networks=1, one_pass=False):
    """Decide every "auto" of an estimator for ``n`` distinct rows of ``d`` columns and so many networks.

    Returns
    -------
    settings : Settings
    stop_early : bool
    """
    p = estimator
    stop_early = n >= 100 if p.early_stopping == "auto" else bool(p.early_stopping)
    if stop_early and n < 10:
        warnings.warn(
            f"{n} distinct rows are too few to keep validation rows aside: early stopping is off.",
            TrainingWarning,
            stacklevel=6,
        )
        stop_early = False
    stop_early = stop_early and not one_pass
    batch_size = affordable_batch(n, device) if p.batch_size == "auto" else int(p.batch_size)
    several = n_networks > 1 and p.n_networks == "auto" and n > _FEW
    n_quadratic = p.max_iter
    if n_quadratic == "auto":
        n_quadratic = min(800, max(100, n // 2))
        if device.type != "cpu":
            n_quadratic = max(n_quadratic, math.ceil(20 * n_draws / batch_size))
    n_quadratic = int(n_quadratic)
    if p.polish != "auto":
        n_polish = int(p.polish)
    else:
        n_polish = 3 * n_quadratic
        if p.max_iter == "auto":
            n_polish = affordable_polish(d, velocity, n_draws, batch_size, device)
            if several and device.type == "cpu":
                n_polish = min(n_polish, _POLISH_OF_ONE)
    if one_pass:
        batch_size = min(batch_size, n_draws)
        n_quadratic = math.ceil(n_draws / batch_size)
    decay = p.weight_decay
    if decay == "auto":
        decay = _DECAY if one_pass else strong_decay(n)
    settings = Settings(
        n_quadratic=n_quadratic,
        n_polish=n_polish if stop_early else 0,
        batch_size=batch_size,
        polish_batch_size=polish_batch(batch_size, n),
        polish_of_all=2 * n_polish if several else 0,
        learning_rate=float(p.learning_rate_init),
        weight_decay=float(decay),
        ema_decay=float(p.ema_decay),
        tol=float(p.tol),
        patience=int(p.n_iter_no_change),
        anneal=not one_pass,
    )
    return settings, stop_early


def split(n, fraction, generator):
    """Row numbers for training, in order, and for validation: at least 2 and at most 2048."""
    order = torch.randperm(n, generator=generator, device=generator.device).cpu()
    n_valid = min(2048, max(2, round(fraction * n)))
    return order[n_valid:].sort().values, order[:n_valid]


def fit_parts(
    parts,
    x,
    weight,
    n_draws,
    settings,
    *,
    fraction,
    seed,
    device,
    verbose=0,
    fitted=None,
    checkpoint=None,
    context=None,
    n_networks=1,
):
    """Train the flow of ``parts`` on rows ``x``.

    Parameters
    ----------
    parts : dict
        Fresh ``interpolant``, ``base``, ``coupling``, ``velocity`` and ``preprocessor``.
    x : tensor of shape (n, d), float64
        Distinct rows.
    weight : tensor of shape (n,), float64
        Sums to 1.
    n_draws : int
        Rows of an epoch.
    settings : Settings
    fraction : float or None
        Share of the rows kept for validation; None keeps none.
    seed : int
    device : torch.device
    verbose : int
    fitted : tuple (preprocessor, base, network), default=None
        Go on from these.
    checkpoint : object, default=None
        Its ``states`` are what earlier trainers left; its ``offer(take)`` is called between steps, its
        ``keep(take)`` at the end, with a function that takes the states of all trainers.
    context : tensor of shape (n, k), float64, default=None
        What the velocity is conditional on, ready for the network.
    n_networks : int, default=1
        More follow the first, with its preprocessor, its base and its steps to its best weights, which only
        validation rows can tell; they learn from these rows too.  The mean of all is the velocity.  Fewer,
        but two, where these steps are so many that ``settings.polish_of_all`` does not hold them.

    Returns
    -------
    fitted : Fitted
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    unsure = n_networks > 1 and len(x) <= _UNSURE  # of more rows a second polish is too long a wait
    rows = (torch.arange(len(x)), None) if fraction is None else split(len(x), fraction, generator)
    trained, trainers, conditional = [], [], {} if context is None else {"n_context": context.shape[1]}

    def build(seed):
        initial = torch.Generator().manual_seed(seed)
        return parts["velocity"].build(x.shape[1], initial, **conditional).float().to(device)

    def trainer_of(network, base, data, generator):
        path = copy.deepcopy(parts["interpolant"])  # a learnable one starts afresh for every candidate
        trainers.append(Trainer(network, base, path, data, settings, generator, verbose, parts["coupling"]))
        if checkpoint is not None:
            _attach(checkpoint, trainers)
        return trainers[-1]

    def data_of(preprocessor, train, valid):
        data = _data(preprocessor, x, weight, n_draws, train, valid, device)
        if context is not None:
            data.context, data.context_valid = (
                None if part is None else context[part].float().to(device) for part in (train, valid)
            )
        return data

    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for preprocessor in _candidates(parts["preprocessor"], rows[1] is not None, fitted):
            if fitted is None:
                weights = weight[rows[0]] / weight[rows[0]].sum()
                preprocessor = _meeting.fitted(preprocessor, x[rows[0]], weights)
            data = data_of(preprocessor, *rows)
            if fitted is None:
                base = copy.deepcopy(parts["base"]).fit(_latent(data, generator), generator)
                network = build(seed)
            else:
                base = copy.deepcopy(fitted[1]) if hasattr(fitted[1], "n_velocity_steps") else fitted[1]
                network = copy.deepcopy(fitted[2]).float().requires_grad_(True)
            trainer = trainer_of(network, base, data, generator)
            try:
                rival = max(trained, key=_score)[0] if trained and not unsure else None
                trained.append((trainer.regress(rival), preprocessor))
                interrupted = trainer.interrupted
            except KeyboardInterrupt:  # before this candidate could be compared
                if not trained:
                    raise
                interrupted = True
                _warn_of_interrupt(trained[0][0].iteration + trainer.iteration)
            if interrupted:
                break
        if unsure and not interrupted and _are_close(trained):
            for trainer, _ in trained:
                interrupted = interrupted or trainer.polish().interrupted
        trainer, preprocessor = max(trained, key=_score)
        if not interrupted:
            interrupted = trainer.polish().interrupted
        averaged = [trainer]
        if settings.polish_of_all:
            left = settings.polish_of_all - len(trainer.history.polish_loss)
            n_networks = min(n_networks, 1 + left // max(1, trainer.polished))
        if n_networks > 1:
            everything = data_of(preprocessor, torch.arange(len(x)), None)
        while len(averaged) < n_networks and not interrupted:
            own_seed = int(np.random.SeedSequence([seed, len(averaged)]).generate_state(1)[0])
            own = torch.Generator(device=device).manual_seed(own_seed)
            other = trainer_of(build(own_seed), trainer.base, everything, own)
            try:
                interrupted = other.follow(trainer.course).interrupted
            except KeyboardInterrupt:  # before its first step
                interrupted = True
                _warn_of_interrupt(sum(done.iteration for done in averaged))
            if not interrupted:  # of half a training nothing is taken
                averaged.append(other)
        if checkpoint is not None and not interrupted:
            checkpoint.keep(lambda: [t.state() for t in trainers])
    network = Average([t.network for t in averaged]) if len(averaged) > 1 else trainer.network
    return Fitted(preprocessor, trainer.base, trainer.interpolant, network, trainer, len(averaged))


def _warn_of_interrupt(n_steps):
    warnings.warn(
        f"Training interrupted after {n_steps} iterations; the best weights so far are kept.",
        TrainingWarning,
        stacklevel=7,
    )


def _score(pair):
    """Mean log-density of the validation rows, plus that of the copula for the others as if it were of 15.

    Thirty rows say little about two preprocessors: one of them far out decides.  What the Gaussian copula
    says, each row left out, knows nothing of what the flow learns, but varies far less.
    """
    trainer, preprocessor = pair
    prior = getattr(preprocessor, "copula_score_", 0.0)
    return trainer.best_score + _PRIOR * prior / max(1, trainer.validation.n_rows)


def _are_close(trained):
    """Whether the best two are within three standard errors of their difference on the validation rows."""
    if len(trained) < 2:
        return False
    one, other = (pair[0] for pair in sorted(trained, key=_score)[-2:])
    difference, weight = one.regressed_log_density() - other.regressed_log_density(), one.data.weight_valid
    mean = weight @ difference
    return not mean.abs() > 3.0 * (weight**2 @ (difference - mean) ** 2).sqrt()


def _attach(checkpoint, trainers):
    """Let the newest trainer go on where its predecessor was killed, and offer checkpoints as it goes."""
    trainer, index = trainers[-1], len(trainers) - 1
    if index < len(checkpoint.states):
        trainer.load_state(checkpoint.states[index])
    trainer.between_steps = lambda: checkpoint.offer(lambda: [t.state() for t in trainers])


def _candidates(preprocessor, can_compare, fitted):
    """The preprocessors to try: what a part proposes where validation rows can compare, else itself."""
    if fitted is not None:
        return [fitted[0]]
    return (
        preprocessor.candidates() if can_compare and hasattr(preprocessor, "candidates") else [preprocessor]
    )


def _data(preprocessor, x, weight, n_draws, train, valid, device):
    def portion(rows):
        z, log_det = preprocessor.forward(x[rows])
        return z, log_det, weight[rows] / weight[rows].sum()

    z, _, w = portion(train)
    draws = n_draws if valid is None else max(1, round(n_draws * float(weight[train].sum())))
    data = Data(z.float().to(device), w.to(device), draws)
    if valid is not None:
        z, log_det, w = portion(valid)
        data.x_valid, data.weight_valid = z.float().to(device), w.to(device)
        data.log_det_valid = log_det.to(device)
    return data


def _latent(data, generator):
    """Training rows in the space of the flow, float64, repeated by weight when weights differ."""
    latent = data.x.double()
    if len(latent) == data.n_draws:
        return latent
    return latent[Batches(data.weight, data.n_draws, generator).take(data.n_draws).sort().values]
