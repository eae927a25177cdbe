"""Networks of equal shape with a leading axis."""

import copy
import functools

import torch
from torch import nn

from .._capture import Recorded
from .._objective import guarded_log_density
from ..velocities import given
from ._optimiser import adam_step, muon_step

# Slots of a stack for each seat at work: when it is made, and at most.  On CUDA a stack made anew is recorded
# anew, which takes as long as hundreds of steps, and idle slots cost little; elsewhere none is idle.
SLOTS = {"cuda": (4, 6)}


def with_weights(network, weights):
    """A copy of the network with these weights, which may have a leading axis."""
    made = copy.deepcopy(network)
    for (name, _), weight in zip(list(made.named_parameters()), weights, strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(owner), leaf, nn.Parameter(weight))
    return made


def _slots(seats):
    """The number of slots for these when their stack is made, and at most."""
    return [n * len(seats) for n in SLOTS.get(seats[0].moments[0].device.type, (1, 1))]


class Stack:
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
        self.network = with_weights(first.network, self.tensors[:n])
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
            network = with_weights(self.network, averages)
            return guarded_log_density(given(network, *context), base, x)

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
