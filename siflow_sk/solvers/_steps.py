"""One step of a Runge-Kutta method, and steps on given times."""

import functools
import itertools

import torch

from .._capture import Recorded

# Butcher tableaus as data: rows of A, weights b, nodes c
_EULER = ([[]], [1.0], [0.0])
_MIDPOINT = ([[], [1 / 2]], [0.0, 1.0], [0.0, 1 / 2])
_HEUN = ([[], [1.0]], [1 / 2, 1 / 2], [0.0, 1.0])
_RK4 = (
    [[], [1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]],
    [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    [0.0, 1 / 2, 1 / 2, 1.0],
)
TABLEAUS = {"euler": _EULER, "midpoint": _MIDPOINT, "heun": _HEUN, "rk4": _RK4}

# Dormand & Prince, J. Comput. Appl. Math. 6 (1980) 19: 5(4) pair, first same as last
DP_A = [
    [],
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
DP_C = [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0]
DP_B = DP_A[6]
DP_E = [  # fifth minus fourth order weights
    35 / 384 - 5179 / 57600,
    0.0,
    500 / 1113 - 7571 / 16695,
    125 / 192 - 393 / 640,
    -2187 / 6784 + 92097 / 339200,
    11 / 84 - 187 / 2100,
    -1 / 40,
]


def _combine(state, h, slopes, weights):
    """``state + h sum_i weights_i slopes_i``, entry by entry of the tuple."""
    result = []
    for j, y in enumerate(state):
        step = _weighted(slopes, weights, j)
        result.append(y if step is None else torch.addcmul(y, step, _clock(h, y)))
    return tuple(result)


def _weighted(slopes, weights, j):
    """``sum_i weights_i slopes_i`` of entry j of the tuples; None where all weights are zero."""
    total = None
    for slope, weight in zip(slopes, weights, strict=False):
        if weight != 0.0:  # so a slope may lack the entry
            total = weight * slope[j] if total is None else total.add_(slope[j], alpha=weight)
    return total


def _clock(h, y):
    """Step ``h``, scalar or (n, 1), in a shape that multiplies ``y`` of shape (n,) or (n, d)."""
    return h.reshape(-1) if h.ndim == 2 and y.ndim == 1 else h


def on_steps(f, knots, nodes, like=None):
    """The field, and a list of the steps between ``knots`` ``(m,)``: the times of the nodes, and the size.

    A field that has ``at_times(times)`` prepares itself for all of them at once; it meets these very tensors.
    Knots ``(k, m)`` are those of k models, whose rows are one model's after the other's in ``like``: the
    field gets times ``(k, 1, 1)``, and each row its size of the step.
    """
    h = knots.diff()
    # the nodes stay on the host: no transfer that a device would be waited for
    times = [knots[..., :-1] + node * h for node in nodes]
    if knots.ndim == 2:
        times = [of_all[..., None, None] for of_all in times]
        h = h.repeat_interleave(len(like) // len(h), 0)[..., None]
    times = [*zip(*(of_all.unbind(knots.ndim - 1) for of_all in times), strict=True)]
    f = f.at_times([*itertools.chain.from_iterable(times)]) if hasattr(f, "at_times") and times else f
    return f, [*zip(times, h.unbind(knots.ndim - 1), strict=True)]


def _explicit_step(f, times, h, state, tableau):
    a, b, _ = tableau
    slopes = []
    for row, t in zip(a, times, strict=True):
        slopes.append(f(t, _combine(state, h, slopes, row)))
    return _combine(state, h, slopes, b)


def on_knots(f, state, knots, method="rk4"):
    """Explicit Runge-Kutta on given times ``knots`` (m,), differentiable."""
    tableau = TABLEAUS[method]
    f, steps = on_steps(f, knots, tableau[2])
    for times, h in steps:
        state = _explicit_step(f, times, h, state, tableau)
    return state


def dormand_prince_step(f, times, h, state, first):
    """One step: new state, its derivative (used as the next first slope), embedded error.

    ``times`` are those of the nodes after the first.  Where only the first part of the state moves the
    others, and these are integrals, the field has ``motion``, the slope of that part alone: integrals are
    not needed inside the step, and the slope of the second node has no weight in them.
    """
    if isinstance(f, _OnDevice):
        return f.dormand_prince_step(times, h, state, first)
    slopes, motion = [first], getattr(f, "motion", None)
    moving = state if motion is None else state[:1]
    # points at which slopes of less precision are taken need no more than theirs
    moving = tuple(y.to(slope.dtype) for y, slope in zip(moving, first, strict=False))
    slopes.append((motion or f)(times[0], _combine(moving, h, slopes, DP_A[1])))
    for row, t in zip(DP_A[2:6], times[1:5], strict=True):
        slopes.append(f(t, _combine(moving, h, slopes, row)))
    new = _combine(state, h, slopes, DP_B)
    slopes.append(f(times[5], new))
    error = (_clock(h, y) * _weighted(slopes, DP_E, j) for j, y in enumerate(state))
    return new, slopes[6], tuple(error)


def on_device(f, like):
    """The field as the steps of a solver take it: on CUDA each is a record, about 200 kernels, replayed.

    Not where gradients are wanted, which a record does not carry.
    """
    plain = isinstance(f, _OnDevice) or not like.is_cuda or torch.is_grad_enabled()
    return f if plain else _OnDevice(f)


class _OnDevice:
    """A field whose Dormand-Prince steps are recorded."""

    def __init__(self, f):
        self.f, self.recorded = f, Recorded(functools.partial(_flat_step, f))

    def __call__(self, t, state):
        return self.f(t, state)

    def dormand_prince_step(self, times, h, state, first):
        n, found = len(state), self.recorded(h, *times, *state, *first)
        return found[:n], found[n : 2 * n], found[2 * n :]


def _flat_step(f, h, *inputs):
    """A step whose inputs, and what it returns, are tensors side by side."""
    times, n = inputs[:6], len(inputs) // 2 - 3
    if hasattr(f, "at_times") and times[0].ndim != 2:  # not where every row has a clock of its own
        f = f.at_times(times)
    new, slope, error = dormand_prince_step(f, times, h, inputs[6 : 6 + n], inputs[6 + n :])
    return *new, *slope, *error


def with_embedded_error(f, state, knots):
    """Dormand-Prince steps on given times: the final state and the summed size of the embedded errors."""
    return solution_on(*on_steps(f, knots, DP_C[:6]), state)


def along(f, state, knots):
    """Dormand-Prince steps on given times: the final state, and of each step the size of a row's error.

    ``knots`` are ``(m + 1,)`` for all n rows, or ``(k, m + 1)`` for k models, whose rows come one model's
    after the other's.  The sizes, ``(m, n)``, are sums of absolute embedded errors, fifth less fourth order,
    over all entries of the state.  A field that has a method ``along(state, knots)`` is asked instead.
    """
    if hasattr(f, "along"):
        return f.along(state, knots)
    f, steps = on_steps(on_device(f, state[0]), knots, DP_C[:6], state[0])
    sizes = [state[0].new_zeros(0, len(state[0]))]
    for new, error in walk(f, steps, state):
        state = new
        sizes.append(size_of(error)[None])
    return state, torch.cat(sizes)


def solution_on(f, steps, state):
    """The same on steps that :func:`on_steps` has prepared."""
    size = state[0].new_zeros(len(state[0]))
    for new, error in walk(f, steps, state):
        state, size = new, size + size_of(error)
    return state, size


def walk(f, steps, state):
    """Yield the state and the embedded error after each step."""
    slope = None
    for times, h in steps:
        slope = f(times[0], state) if slope is None else slope
        state, slope, error = dormand_prince_step(f, [*times[1:], times[5]], h, state, slope)
        yield state, error


def size_of(error):
    """Sum of the absolute entries of a row over all parts of the state, ``(n,)``."""
    return sum(e.reshape(len(e), -1).abs().sum(1) for e in error)
