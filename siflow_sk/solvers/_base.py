"""What every solver offers."""

from .._component import Component


class Solver(Component):
    """Base of the solvers; an author writes ``integrate(f, state, t0, t1)``.

    A solver may also have ``fallback(dtype)``, another solver for the rows that it leaves not finite; with
    ``integrate_with_error``, which returns the state and an estimate of the error per row, and ``tol``, for
    those whose estimate is larger as well.  ``finer(dtype)``, the same with much smaller errors, is tried for
    these before the fallback, and verifies the estimate where a user asks for it; ``refined(factor)``, the
    same with so many times as many steps, is tried before that.  ``prepared(f, t0, t1, like)`` is
    ``integrate_with_error`` as a function of the state alone, for many blocks of rows like the tensor
    ``like``.
    """

    def integrate(self, f, state, t0, t1):
        """State at time ``t1`` from ``state`` (tuple of tensors) at time ``t0``."""
        raise NotImplementedError(f"{type(self).__name__} must define integrate(f, state, t0, t1).")
