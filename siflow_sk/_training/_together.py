"""Several fits as one: trainers in threads meet at every step, and steps of equal shape become one program.

Each trainer keeps its rows, its random numbers and its decisions; what it does not do alone are the steps and
the validations.  A small network keeps a processor busy with starting operations, not with numbers: fifteen
of them, stacked along a leading axis, cost little more than three.
"""

import itertools
import math

from ._meeting import Request, here, leave, likeness
from ._optimiser import Optimiser
from ._stack import Stack

AT_A_TIME = 16  # steps that a trainer draws before they are done
MOST_ROWS = 1024  # validation rows of one model that are scored beside those of others


def seat(trainer, loss, *rests_on):
    """A seat for the steps of ``trainer`` on ``loss(velocity, *inputs)``, or None where it steps alone.

    ``rests_on`` are parts and numbers: losses that agree in them are the same function.
    """
    meeting, network, alike = here(), trainer.network, [likeness(part) for part in rests_on]
    if meeting is None or None in alike or not hasattr(network, "likeness"):
        leave()
        return None
    return Seat(meeting, trainer, loss, (network.likeness(), trainer.settings.clip, *alike))


class Steps(Request):
    """Updates one after the other; the inputs of each begin with its learning rate and decay of the average.

    They are served as far as all who ask have as many; who has none left goes on.
    """

    comes = 1  # after scores: so everybody who takes part in a step is there

    def __init__(self, seat, key, inputs, losses):
        super().__init__(seat.number, key, inputs)
        self.seat, self.losses, self.done = seat, losses, 0

    def left(self):
        """How many of the steps are to be done yet."""
        return len(self.inputs) - self.done

    def is_served(self):
        return self.error is not None or not self.left()

    @staticmethod
    def serve(group, meeting, n_present):
        seats, key = [request.seat for request in group], group[0].key
        stack = meeting.stacks.get(key)
        if stack is None or not stack.has_room(seats):
            meeting.stacks = {k: s for k, s in meeting.stacks.items() if any(map(s.holds, s.seats))}
            stack = meeting.stacks[key] = Stack(seats, n_present)
        stack.welcome(seats)
        for _ in range(min(request.left() for request in group)):
            stack.step(group)


class _Later:
    """A number that is known once steps that were put off are done."""

    value = math.nan

    def __float__(self):
        return float(self.value)


class Score(Request):
    """The guarded log-density of rows by the averaged weights; the inputs end with the base."""

    def __init__(self, seat, key, inputs):
        super().__init__(seat.number, key, inputs)
        self.seat = seat

    @staticmethod
    def serve(group, meeting, n_present):
        group[0].seat.stack.score(group)


class Seat:
    """The place of a trainer among others: called as the update that it would do alone.

    Updates are put off, some at a time, until :meth:`catch_up`: threads that take turns at every single one
    take longer over that than over the work.  While the seat has a slot of a stack, weights, averaged weights
    and moments are views of the stack's.
    """

    _numbers = itertools.count()

    def __init__(self, meeting, trainer, loss, key):
        self.meeting, self.loss, self.number = meeting, loss, next(self._numbers)
        self.key = meeting.keys.setdefault(key, self.number)  # a long tuple is slow to compare at each step
        self.network, self.average, self.stack = trainer.network, trainer.average, None
        self.weight_decay, self.clip = trainer.settings.weight_decay, trainer.settings.clip
        optimiser = Optimiser(self.network, self.weight_decay)
        self.by_muon, self.moments = optimiser.by_muon, optimiser.tensors()
        self.put_off, self.losses = [], []

    def __call__(self, rate, decay, *inputs):
        """One step, put off; returns what will be its loss."""
        self.put_off.append((rate, decay, *inputs))
        self.losses.append(_Later())
        found = self.losses[-1]
        if len(self.put_off) == AT_A_TIME:
            self.catch_up()
        return found

    def catch_up(self):
        """Do the steps that were put off."""
        if self.put_off:
            steps, losses, self.put_off, self.losses = self.put_off, self.losses, [], []
            shapes = tuple(value.shape for value in steps[0][2:])
            self.meeting.ask(Steps(self, (self.key, shapes), steps, losses))

    def score(self, base, x, context):
        """Guarded log-density of the rows, or None where that is done alone."""
        alike, with_context = likeness(base), [] if context is None else [context]
        if alike is None or len(x) > MOST_ROWS:
            return None
        shapes = tuple(value.shape for value in (x, *with_context))
        key = (id(self.stack), alike, shapes)
        return self.meeting.ask(Score(self, key, [x, *with_context, base]))

    def weights(self):
        return [*self.network.parameters(), *self.average.parameters()]

    def tensors(self):
        """All that a step changes."""
        return [p.data for p in self.weights()] + self.moments

    def bind(self, tensors):
        """Let these be what a step changes."""
        weights = self.weights()
        for p, value in zip(weights, tensors, strict=False):
            p.data = value
        self.moments = tensors[len(weights) :]

    def release(self):
        """Weights that belong to the trainer alone again."""
        self.catch_up()
        self.stack = None
        for p in self.weights():
            p.data = p.data.clone()
