"""Several fits as one: trainers in threads meet at every step, and steps of equal shape become one program.

Each trainer keeps its rows, its random numbers and its decisions; what it does not do alone are the steps and
the validations.  A small network keeps a processor busy with starting operations, not with numbers: fifteen
of them, stacked along a leading axis, cost little more than three.
"""

import contextlib
import copy
import threading

import torch
from torch import nn

from .._objective import guarded_log_density
from ._capture import Recorded
from ._optimiser import Optimiser, adam_step, muon_step

_HERE = threading.local()
_PACKAGE = __name__.split(".")[0]
MOST_ROWS = 1024  # validation rows of one model that are scored beside those of others
# Slots of a stack for each seat at work: when it is made, and at most.  On CUDA a stack made anew is recorded
# anew, which takes as long as hundreds of steps, and idle slots cost little; elsewhere none is idle.
SLOTS = {"cuda": (4, 6)}


class Meeting:
    """Where trainers in several threads wait until all of them do, and have their requests served at once.

    A thread takes part inside :meth:`attend`, from there to :meth:`leave`.  Requests are served by one thread
    of the meeting's own while no other takes part, and the threads go on one after the other: whatever each
    does between two requests, it does not fight for the interpreter with the others.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._busy, self._waiting, self._open = 0, [], True
        self._stacks, self.keys = {}, {}
        self._thread = threading.Thread(target=self._serve, name="siflow_sk meeting", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.close()
        self._thread.join()

    def close(self):
        """Nothing is served any more: whoever asks gets an error."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    @contextlib.contextmanager
    def attend(self):
        """The calling thread takes part; its trainers ask here."""
        _HERE.meeting, _HERE.counted = self, False
        self._count()
        try:
            yield
        finally:
            leave()
            _HERE.meeting = None

    def ask(self, request):
        """Have a request served; returns what the service answers."""
        self._count()
        with self._changed:
            if not self._open:
                raise RuntimeError("The search has ended.")
            self._waiting.append(request)
            self._busy -= 1
            self._changed.notify_all()
        request.served.wait()
        if request.error is not None:
            raise request.error
        return request.answer

    def _count(self, take_part=True):
        if _HERE.counted != take_part:
            _HERE.counted = take_part
            with self._changed:
                self._busy += 1 if take_part else -1
                self._changed.notify_all()

    def _serve(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._open or (self._waiting and not self._busy))
                requests, self._waiting = self._waiting, []
                if not self._open:
                    break
            # scores before steps: so a step finds everybody who takes part in it
            scores = [r for r in requests if isinstance(r, Score)]
            if scores:
                with self._changed:
                    self._waiting += [r for r in requests if not isinstance(r, Score)]
            now = scores or requests
            for group in _alike(now):
                try:
                    self._answer(group, len(requests))
                except Exception as error:  # belongs to those who asked
                    for request in group:
                        request.error = error
            for request in now:
                self._let_go(request)
        for request in requests:
            request.error = RuntimeError("The search has ended.")
            self._let_go(request)

    def _let_go(self, request):
        with self._changed:
            self._busy += 1
            request.served.set()
            self._changed.wait_for(lambda: not (self._open and self._busy))

    def _answer(self, group, n_present):
        if isinstance(group[0], Score):
            answers = _scores(group)
        else:
            seats = [request.seat for request in group]
            stack = self._stacks.get(group[0].key)
            if stack is None or not stack.has_room(seats):
                self._stacks = {k: s for k, s in self._stacks.items() if any(map(s.holds, s.seats))}
                stack = self._stacks[group[0].key] = _Stack(seats, n_present)
            stack.welcome(seats)
            answers = stack.step(group)
        for request, answer in zip(group, answers, strict=True):
            request.answer = answer


def leave():
    """The thread's trainers ask no more; what it does from here on nobody waits for."""
    if getattr(_HERE, "meeting", None) is not None:
        _HERE.meeting._count(False)


def seat(trainer, loss, *rests_on):
    """A seat for the steps of ``trainer`` on ``loss(velocity, *inputs)``, or None where it steps alone.

    ``rests_on`` are parts and numbers: losses that agree in them are the same function.
    """
    meeting, network = getattr(_HERE, "meeting", None), trainer.network
    likeness = [_likeness(part) for part in rests_on]
    if meeting is None or None in likeness or not hasattr(network, "likeness"):
        leave()
        return None
    return Seat(meeting, trainer, loss, (network.likeness(), trainer.settings.clip, *likeness))


def _likeness(part):
    """What parts that do the same agree in; None where that cannot be told."""
    if isinstance(part, float | int | str):
        return part
    state = tuple(sorted(vars(part).items()))
    ours = type(part).__module__.split(".")[0] == _PACKAGE
    plain = all(isinstance(value, float | int | str | None) for _, value in state)
    return (type(part), state) if ours and plain else None


def _alike(requests):
    """Lists of requests with equal keys, each in the order of the seats."""
    groups = {}
    for request in sorted(requests, key=lambda r: r.seat.number):
        groups.setdefault(request.key, []).append(request)
    return groups.values()


class _Request:
    def __init__(self, seat, key, inputs):
        self.seat, self.key, self.inputs = seat, key, inputs
        self.served, self.answer, self.error = threading.Event(), None, None


class Step(_Request):
    """One update, by its learning rate and decay of the averaged weights."""

    def __init__(self, seat, key, inputs, *numbers):
        super().__init__(seat, key, inputs)
        self.numbers = numbers


class Score(_Request):
    """The guarded log-density of rows by the averaged weights; the inputs end with the base."""


class Seat:
    """The place of a trainer among others: called as the update that it would do alone.

    While it has a slot of a stack, weights, averaged weights and moments are views of the stack's.
    """

    _numbers = iter(range(2**62))

    def __init__(self, meeting, trainer, loss, key):
        self.meeting, self.loss, self.number = meeting, loss, next(self._numbers)
        self.key = meeting.keys.setdefault(key, self.number)  # a long tuple is slow to compare at each step
        self.network, self.average, self.stack = trainer.network, trainer.average, None
        self.weight_decay, self.clip = trainer.settings.weight_decay, trainer.settings.clip
        optimiser = Optimiser(self.network, self.weight_decay)
        self.by_muon, self.moments = optimiser.by_muon, optimiser.tensors()

    def __call__(self, rate, decay, *inputs):
        """One step; returns the loss."""
        shapes = tuple(value.shape for value in inputs)
        return self.meeting.ask(Step(self, (self.key, shapes), inputs, rate, decay))

    def score(self, base, x, context):
        """Guarded log-density of the rows, or None where that is done alone."""
        likeness, with_context = _likeness(base), [] if context is None else [context]
        if likeness is None or len(x) > MOST_ROWS:
            return None
        shapes = tuple(value.shape for value in (x, *with_context))
        key = (self.network.likeness(), likeness, shapes)
        return self.meeting.ask(Score(self, key, [x, *with_context, base]))

    def tensors(self):
        """All that a step changes."""
        return [p.data for p in _weights(self)] + self.moments

    def bind(self, tensors):
        """Let these be what a step changes."""
        weights = _weights(self)
        for p, value in zip(weights, tensors, strict=False):
            p.data = value
        self.moments = tensors[len(weights) :]

    def release(self):
        """Weights that belong to the trainer alone again."""
        self.stack = None
        for p in _weights(self):
            p.data = p.data.clone()


def _weights(seat):
    return [*seat.network.parameters(), *seat.average.parameters()]


def _with_weights(network, weights):
    """A copy of the network with these weights, which may have a leading axis."""
    made = copy.deepcopy(network)
    for (name, _), weight in zip(list(made.named_parameters()), weights, strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(owner), leaf, nn.Parameter(weight))
    return made


def _scores(group):
    *inputs, base = ([r.inputs[i] for r in group] for i in range(len(group[0].inputs)))
    x, *context = (torch.stack(values) for values in inputs)
    with torch.no_grad():
        averages = zip(*(r.seat.average.parameters() for r in group), strict=True)
        network = _with_weights(group[0].seat.network, [torch.stack(values) for values in averages])
        return guarded_log_density(network.given(*context) if context else network, base[0], x).unbind(0)


def _slots(seats):
    """The number of slots for these when their stack is made, and at most."""
    return [n * len(seats) for n in SLOTS.get(seats[0].moments[0].device.type, (1, 1))]


class _Stack:
    """Weights and moments of several seats with a leading axis, and a step of all of them.

    Each index of that axis is a slot, which is free once its seat was given up or sits in another stack.  It
    stays where it is in memory, as a recorded step demands, and a newcomer's numbers are copied into it.
    """

    def __init__(self, seats, n_present):
        first, n_slots = seats[0], min(_slots(seats)[0], n_present)
        self.seats, self.loss = [None] * n_slots, first.loss
        self.clip, self.by_muon = first.clip, first.by_muon
        self.tensors = [value.new_zeros(n_slots, *value.shape) for value in first.tensors()]
        n = len(first.by_muon)
        self.network = _with_weights(first.network, self.tensors[:n])
        self.averages, self.count = self.tensors[n : 2 * n], self.tensors[-1]
        self.moments, self.squares = self.tensors[2 * n : 3 * n], self.tensors[3 * n : -1]
        self.weight_decay = self.count.new_zeros(n_slots)
        self.update = Recorded(self._update)

    def holds(self, seat):
        """Whether the seat has a slot."""
        return seat is not None and seat.stack is self

    def has_room(self, seats):
        """Whether these can step here: all who hold a slot among them, and not too few."""
        asleep = any(self.holds(s) and s not in seats for s in self.seats)
        return len(seats) <= len(self.seats) <= _slots(seats)[1] and not asleep

    def welcome(self, seats):
        """Free slots for those who have none."""
        self.seats = [s if self.holds(s) else None for s in self.seats]
        for newcomer in (s for s in seats if not self.holds(s)):
            i = self.seats.index(None)
            slot = [value[i] for value in self.tensors]
            for place, value in zip(slot, newcomer.tensors(), strict=True):
                place.copy_(value)
            newcomer.bind(slot)
            newcomer.stack, self.seats[i], self.weight_decay[i] = self, newcomer, newcomer.weight_decay

    def step(self, group):
        """The losses of the requests; idle slots do as the first of them, and nobody heeds them."""
        asked = {r.seat: r for r in group}
        requests = [asked.get(s, group[0]) for s in self.seats]
        inputs = [torch.stack(values) for values in zip(*(r.inputs for r in requests), strict=True)]
        numbers = torch.tensor([r.numbers for r in requests], dtype=inputs[0].dtype)
        # one transfer, which the host need not wait for, instead of two kernels for each seat
        rate, decay = numbers.to(inputs[0].device, non_blocking=True).unbind(1)
        losses = dict(zip(self.seats, self.update(rate, decay, *inputs).unbind(0), strict=True))
        return [losses[r.seat] for r in group]

    def _update(self, rate, decay, *inputs):
        """As ``Trainer._update``, for all seats; every number has an entry for each."""
        weights = list(self.network.parameters())
        losses = self.loss(self.network, *inputs)
        gradients = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            norm = sum(g.flatten(1).square().sum(1) for g in gradients).sqrt()
            scale = (self.clip / (norm + 1e-6)).clamp_max(1.0).nan_to_num(0.0)
            self.count.add_(1.0)
            state = self.averages, self.moments, self.squares, self.by_muon
            for weight, gradient, average, moment, square, by_muon in zip(
                weights, gradients, *state, strict=True
            ):
                each = (-1, *[1] * (weight.ndim - 1))
                gradient = gradient.nan_to_num(0.0, 0.0, 0.0) * scale.reshape(each)
                lr = rate.reshape(each)
                if by_muon:
                    muon_step(weight, gradient, moment, lr, self.weight_decay.reshape(each))
                else:
                    adam_step(weight, gradient, moment, square, lr, self.count.reshape(each))
                average.lerp_(weight, 1.0 - decay.reshape(each))
        return losses.detach()
