"""Solutions of trained fields, of several fits as one: what the choice of a time grid consists of."""

import torch

from .._objective import StackedField
from ..solvers import along
from ..velocities import given, hold_weights, in_single
from ._meeting import Request, here, leave
from ._stack import with_weights


def solved_together(field, network, context, single):
    """The field, whose solutions on given times are asked for in the meeting where fits meet.

    ``field`` is that of ``network`` at ``context``, which may be None, in float32 where ``single``.
    """
    meeting = here()
    if meeting is None or not hasattr(network, "likeness"):
        leave()
        return field
    return _Together(field, meeting, network, context, single)


class _Together:
    """A field, and its solutions beside those of others."""

    def __init__(self, field, *others):
        self.field, self.others = field, others

    def __call__(self, t, state):
        return self.field(t, state)

    def motion(self, t, state):
        return self.field.motion(t, state)

    def at_times(self, times):
        return self.field.at_times(times)

    def along(self, state, knots):
        """As :func:`siflow_sk.solvers.along`."""
        meeting, network, context, single = self.others
        tables = [*state] if context is None else [*state, context]
        return meeting.ask(Solution(network, single, tables, knots))


class Solution(Request):
    """Dormand-Prince steps on knots of its own; the inputs are the state and the context of every row."""

    comes = 2  # after training: by then all who have a grid to choose are there

    def __init__(self, network, single, tables, knots):
        shapes = tuple(table.shape for table in tables)
        super().__init__(0, ("solution", network.likeness(), single, shapes), tables)
        self.network, self.single, self.knots = network, single, knots

    @staticmethod
    def serve(group, meeting, n_present):
        longest, first = max(len(r.knots) for r in group), group[0]
        # who has fewer steps than others stays at the end of the last
        knots = torch.stack([r.knots[torch.arange(longest).clamp_max(len(r.knots) - 1)] for r in group])
        weights = zip(*(r.network.parameters() for r in group), strict=True)
        x, change, *context = (torch.stack(tables) for tables in zip(*(r.inputs for r in group), strict=True))
        with torch.no_grad():
            network = with_weights(first.network, [*map(torch.stack, weights)])
            network = in_single(network) if first.single else hold_weights(network)
            field = StackedField(given(network, *context), x.shape)
            (end, total), sizes = along(field, (x.flatten(0, 1), change.flatten()), knots)
        of_each = (
            end.reshape(x.shape),
            total.reshape(change.shape),
            sizes.unflatten(1, change.shape).unbind(1),
        )
        for request, *state, size in zip(group, *of_each, strict=True):
            request.answer = tuple(state), size[: len(request.knots) - 1]
