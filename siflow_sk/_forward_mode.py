"""Forward-mode differentiation that threads may share."""

import os
import threading

import torch

# torch counts the nested levels of forward mode for the whole process: two threads inside of it end each
# other's levels, which is an error or, worse, a tangent of the other
_LEVELS = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not wait for a thread that it does not have
    os.register_at_fork(
        before=_LEVELS.acquire, after_in_parent=_LEVELS.release, after_in_child=_LEVELS.release
    )


def jvp(function, primals, tangents):
    """``torch.func.jvp``, one thread at a time.

    Returns
    -------
    value, tangent : as ``function`` returns
    """
    with _LEVELS:
        return torch.func.jvp(function, primals, tangents)
