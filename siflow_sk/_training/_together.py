"""Several fits as one: trainers in threads meet at every step, and steps of equal shape become one program.

Each trainer keeps its rows, its random numbers and its decisions; what it does not do alone are the steps and
the validations.  A small network keeps a processor busy with starting operations, not with numbers: fifteen
of them, stacked along a leading axis, cost little more than three.
"""

import contextlib
import copy
import functools
import hashlib
import math
import threading

import torch
from torch import nn

from .._capture import Recorded
from .._objective import guarded_log_density
from ._optimiser import Optimiser, adam_step, muon_step

_HERE = threading.local()
_PACKAGE = __name__.split(".")[0]
AT_A_TIME = 16  # steps that a trainer draws before they are done
MOST_ROWS = 1024  # validation rows of one model that are scored beside those of others
# Slots of a stack for each seat at work: when it is made, and at most.  On CUDA a stack made anew is recorded
# anew, which takes as long as hundreds of steps, and idle slots cost little; elsewhere none is idle.
SLOTS = {"cuda": (4, 6)}


class Meeting:
    """Where trainers in several threads wait until all of them do, and have their requests served at once.

    A thread takes part inside :meth:`attend`, from there to :meth:`leave`.  Requests are served by one thread
    of the meeting's own while no other takes part.  Whatever threads do between two requests, before the
    first and after the last, they do in turn, and do not fight for the interpreter.

    Where it is known how many threads will attend, ``n_expected``, who asks first waits until all have come.
    """

    def __init__(self, n_expected=0):
        self._changed = threading.Condition()
        self._expects, self._busy, self._waiting, self._open = n_expected > 0, n_expected, [], True
        self._turn = threading.Lock()
        self._stacks, self.keys, self.fitted = {}, {}, {}
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
        _HERE.meeting, _HERE.counted = self, self._expects
        self._count()
        with self._turn:
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
        self._turn.release()
        request.served.wait()
        self._turn.acquire()
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
            with self._changed:
                self._waiting += [r for r in now if not r.is_served()]
            for request in now:
                if request.is_served():
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
            group[0].seat.stack.score(group)
        else:
            seats = [request.seat for request in group]
            stack = self._stacks.get(group[0].key)
            if stack is None or not stack.has_room(seats):
                self._stacks = {k: s for k, s in self._stacks.items() if any(map(s.holds, s.seats))}
                stack = self._stacks[group[0].key] = _Stack(seats, n_present)
            stack.welcome(seats)
            for _ in range(min(request.left() for request in group)):
                stack.step(group)


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


def fitted(part, x, weight):
    """The part fitted to the rows, as a copy where another trainer has already asked for the same."""
    meeting, likeness = getattr(_HERE, "meeting", None), _likeness(part)
    if meeting is None or likeness is None:
        return part.fit(x, weight)
    digest = hashlib.blake2b(usedforsecurity=False)
    for table in (x, weight):
        digest.update(table.contiguous().numpy())
    key = (likeness, tuple(x.shape), digest.digest())
    if key not in meeting.fitted:
        meeting.fitted[key] = part.fit(x, weight)
    return copy.deepcopy(meeting.fitted[key])


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

    def is_served(self):
        return True


class Steps(_Request):
    """Updates one after the other; the inputs of each begin with its learning rate and decay of the average.

    They are served as far as all who ask have as many; who has none left goes on.
    """

    def __init__(self, seat, key, inputs, losses):
        super().__init__(seat, key, inputs)
        self.losses, self.done = losses, 0

    def left(self):
        """How many of the steps are to be done yet."""
        return len(self.inputs) - self.done

    def is_served(self):
        return self.error is not None or not self.left()


class _Later:
    """A number that is known once steps that were put off are done."""

    value = math.nan

    def __float__(self):
        return float(self.value)


class Score(_Request):
    """The guarded log-density of rows by the averaged weights; the inputs end with the base."""


class Seat:
    """The place of a trainer among others: called as the update that it would do alone.

    Updates are put off, some at a time, until :meth:`catch_up`: threads that take turns at every single one
    take longer over that than over the work.  While the seat has a slot of a stack, weights, averaged weights
    and moments are views of the stack's.
    """

    _numbers = iter(range(2**62))

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
        likeness, with_context = _likeness(base), [] if context is None else [context]
        if likeness is None or len(x) > MOST_ROWS:
            return None
        shapes = tuple(value.shape for value in (x, *with_context))
        key = (id(self.stack), likeness, shapes)
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
        self.catch_up()
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
        self.update, self.scores = Recorded(self._update, rounded=True), {}

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
        """The next step of each request; idle slots do as the first of them, and nobody heeds them."""
        asked = {r.seat: r for r in group}
        steps = [r.inputs[r.done] for r in (asked.get(s, group[0]) for s in self.seats)]
        inputs = [torch.stack(values) for values in zip(*(step[2:] for step in steps), strict=True)]
        numbers = torch.tensor([step[:2] for step in steps], dtype=inputs[0].dtype)
        # one transfer, which the host need not wait for, instead of two kernels for each seat
        rate, decay = numbers.to(inputs[0].device, non_blocking=True).unbind(1)
        losses = dict(zip(self.seats, self.update(rate, decay, *inputs).unbind(0), strict=True))
        for request in group:
            request.losses[request.done].value = losses[request.seat]
            request.done += 1

    def score(self, group):
        """Answer with log-densities.  A record is of all slots; elsewhere idle ones would be lost work."""
        asked, recorded = {r.seat: r for r in group}, self.count.is_cuda
        slots = [i for i, s in enumerate(self.seats) if recorded or s in asked]
        seats, key = [self.seats[i] for i in slots], group[0].key
        *inputs, bases = zip(*(asked.get(s, group[0]).inputs for s in seats), strict=True)
        averages = self.averages if recorded else [average[slots] for average in self.averages]
        score = functools.partial(self._score, bases[0], averages)
        if recorded:
            score = self.scores.setdefault(key, Recorded(score))
        values = dict(zip(seats, score(*map(torch.stack, inputs)).unbind(0), strict=True))
        for request in group:
            request.answer = values[request.seat]

    def _score(self, base, averages, x, *context):
        with torch.no_grad():
            network = _with_weights(self.network, averages)
            return guarded_log_density(network.given(*context) if context else network, base, x)

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
