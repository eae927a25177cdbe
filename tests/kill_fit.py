"""Fits that are killed and taken up again; ``python tests/kill_fit.py TRIALS`` reports on each as JSON.

TRIALS is a number of random ones, or a list of ``[[[phase, call], ...], seconds between checkpoints]``.

Every fit runs in a child of a process that has imported everything and computed nothing.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings

import numpy as np

import siflow_sk._likelihood as likelihood
import siflow_sk._training._loop as loop
from siflow_sk import InterpolantFlow
from siflow_sk.bases import Gaussian
from siflow_sk.persistence import Checkpoint, _checkpoint, _container
from siflow_sk.preprocessing import Gaussianize
from siflow_sk.velocities import MLP

# phase -> (owner, name of the function, kill before or after the call)
PHASES = {
    "preprocessor": (Gaussianize, "fit", "before"),
    "base": (Gaussian, "fit", "after"),
    "network": (MLP, "build", "after"),
    "training": (loop, "quadratic_loss", "after"),
    "optimiser": (loop.Trainer, "_step", "after"),
    "validation": (loop.Trainer, "_score", "before"),
    "polish": (loop, "likelihood_loss", "after"),
    "grid choice": (likelihood, "calibrate", "before"),
    "packing": (_checkpoint, "pack", "after"),
    "half written": (_container.os, "fsync", "before"),
    "before the name": (_container.os, "replace", "before"),
    "after the name": (_container.os, "replace", "after"),
}
WRITING = ("packing", "half written", "before the name", "after the name")


def table():
    X = np.random.default_rng(0).normal(size=(120, 2))
    return np.exp(0.5 * X) @ [[1.0, 0.3], [0.0, 1.0]], 1.0 + (X[:, 0] > 0)


def flow():
    return InterpolantFlow(
        base="gaussian", velocity=MLP(width=8, time_width=8), max_iter=15, polish=25, random_state=0
    )


def answer(fitted):
    """A digest of all that is learnt."""
    X, _ = table()
    found = hashlib.sha256()
    figures = [fitted.score_samples(X), fitted.sample(5, random_state=1), fitted.solver_.knots_.numpy()]
    figures += [p.numpy() for p in fitted.velocity_.state_dict().values()]
    figures += [fitted.loss_curve_, fitted.polish_loss_curve_, fitted.validation_scores_]
    figures += [[fitted.best_iteration_, fitted.n_iter_, fitted.best_validation_score_]]
    for figure in figures:
        found.update(np.asarray(figure, dtype=np.float64).tobytes())
    return found.hexdigest()


def watch(phase, limit):
    """Count the calls of a phase's function; at call number ``limit``, the end."""
    if phase == "clock":  # at any moment at all
        return signal.setitimer(signal.ITIMER_REAL, limit)
    owner, name, when = PHASES[phase]
    function, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == limit and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls[0] == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)
    return calls


def child(work):
    """What ``work()`` returned in a child, or the signal that ended it."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        try:
            result = json.dumps(work())
        except BaseException:
            result = json.dumps({"error": traceback.format_exc()})
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        result = file.read()
    status = os.waitpid(process, 0)[1]
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(result)


def fit(checkpoint=None, kill=None):
    X, weight = table()
    if kill is not None:
        watch(*kill)
    return answer(flow().fit(X, sample_weight=weight, checkpoint=checkpoint))


def count():
    """How often every phase's function is called."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {phase: watch(phase, 0) for phase in PHASES}
        X, weight = table()
        flow().fit(X, sample_weight=weight, checkpoint=Checkpoint(os.path.join(folder, "c"), every=0))
        return {phase: number[0] for phase, number in calls.items()}


def trial(kills, every, wanted):
    """Kill the same fit one time after the other, then let it end."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "c")
        ends = [child(lambda kill=kill: fit(Checkpoint(path, every), kill)) for kill in kills]
        killed = [
            end == {"signal": signal.SIGKILL} or kill[0] == "clock"
            for kill, end in zip(kills, ends, strict=True)
        ]
        got = child(lambda: fit(Checkpoint(path, every)))
        left = sorted(os.listdir(folder))
    equal = got == wanted
    return {"kills": kills, "every": every, "killed": killed, "equal": equal, "left": left, "got": got}


def main(trials):
    warnings.simplefilter("ignore")
    wanted = child(fit)
    if isinstance(trials, int):  # so many random moments
        calls, rng = child(count), random.Random(7)
        trials = []
        while len(trials) < int(sys.argv[1]):
            phase = list(PHASES)[len(trials) % len(PHASES)]
            kills = [[phase, rng.randint(1, calls[phase])]]
            if rng.random() < 0.3:  # and once more after that
                kills.append(["clock", rng.uniform(0.01, 0.2)])
            # calls were counted with a checkpoint after every step; with fewer some are never reached
            trials.append([kills, 0.0 if phase in WRITING else rng.choice([0.0, 0.0, 0.05])])
    print(json.dumps([trial(*t, wanted) for t in trials]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
