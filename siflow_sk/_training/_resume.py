"""What a trainer leaves for another that takes its training up, between any two steps."""

import time
from dataclasses import asdict, astuple

from ._data import DONE, History, Standing, Stretch

_NUMBERS = ("best_score", "best_iteration", "iteration", "rate")


def state_of(trainer):
    """All that a new trainer needs to go on as this one would, as plain values and tensors."""
    history, between = trainer.history, trainer.standing.stage in DONE.values()
    losses = {name: [float(v) for v in getattr(history, name)] for name in ("loss", "polish_loss")}
    return {
        "standing": asdict(trainer.standing),
        "random": trainer.random if between else trainer.generator.get_state(),
        "rest": trainer.draws.batches.rest,
        "network": dict(trainer.network.state_dict()),
        "average": dict(trainer.average.state_dict()),
        "best": None if trainer.best is None else dict(trainer.best),
        "course": [astuple(stretch) for stretch in trainer.course],
        "regressed": trainer.regressed,
        "optimiser": None if trainer.optimiser is None else trainer.optimiser.tensors(),
        "moving": [[part.coefficients_.clone(), adam.state_dict()] for part, adam in trainer.moving],
        "history": {**losses, "checks": history.checks},
        "seconds": time.perf_counter() - trainer.start,
        **{name: getattr(trainer, name) for name in _NUMBERS},
    }


def take_up(trainer, state):
    """Let a trainer with the same parts and settings go on from a state."""
    device = trainer.data.x.device
    trainer.standing = Standing(**state["standing"])
    trainer.random = state["random"]
    trainer.generator.set_state(trainer.random)
    trainer.draws.batches.rest = state["rest"].to(device)
    trainer.network.load_state_dict(state["network"])
    trainer.average.load_state_dict(state["average"])
    best, regressed = state["best"], state["regressed"]
    trainer.best = best and {name: value.to(device) for name, value in best.items()}
    trainer.course = [Stretch(*values) for values in state["course"]]
    trainer.regressed = None if regressed is None else regressed.to(device)
    if state["optimiser"] is not None:
        trainer.optimiser = trainer.new_optimiser()
        trainer.optimiser.load(state["optimiser"])
    for (part, adam), (coefficients, stored) in zip(trainer.moving, state["moving"], strict=True):
        part.coefficients_.copy_(coefficients)
        adam.load_state_dict(stored)
    trainer.history = History(**state["history"])
    trainer.start = time.perf_counter() - state["seconds"]
    for name in _NUMBERS:
        setattr(trainer, name, state[name])
