"""Matrix products by the faster of the two libraries that torch brings along.

torch multiplies by MKL, which uses AVX-512 on Intel's processors alone.  On one of AMD that has it (EPYC,
Zen 5) oneDNN takes half the time: 0.16 instead of 0.33 ms for 256 x 256 by 256 x 256 in float32.
"""

import platform

import torch
from torch.autograd import forward_ad

_LEAST = 2**20  # multiplications from which on it pays: a call of oneDNN takes 0.01 ms longer to begin
_CPUINFO = "/proc/cpuinfo"


def _vendor():
    """What the system says about the maker of the processor."""
    try:
        with open(_CPUINFO, encoding="utf-8", errors="replace") as lines:
            return next((line for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        return platform.processor()


def _onednn():
    """``(x, weight, bias, ...) -> x @ weight.T`` of oneDNN; None where this torch does not have it."""
    try:
        call = torch.ops.mkldnn._linear_pointwise
        call(torch.ones(2, 2), torch.ones(2, 2), None, "none", [], "")
        _is_watched(torch.ones(2, 2))
    except (AttributeError, RuntimeError):
        return None
    return call


def _is_watched(*tensors):
    """Whether torch.func, forward mode or batched gradients look on.

    For the first two oneDNN's results would be constants; the last would make a loop of its calls.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))
    )


def _is_dense(x):
    """Whether the matrix, or its transpose, lies in memory without gaps: others may take oneDNN seconds."""
    return x.is_contiguous() or x.mT.is_contiguous()


def _mkl_is_slow():
    """Whether torch multiplies by MKL on a processor whose AVX-512 that does not use."""
    wide = torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and "AuthenticAMD" in _vendor()


_BY_ONEDNN = _onednn() if _mkl_is_slow() else None


class _Product(torch.autograd.Function):
    """The product of oneDNN with its derivatives, which that does not know."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return _BY_ONEDNN(a, b.mT, None, "none", [], "")

    @staticmethod
    def backward(ctx, gradient):
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return matmul(gradient, b.mT) if of_a else None, matmul(a.mT, gradient) if of_b else None


def suits_onednn(a, b):
    """Whether oneDNN takes these two, and less time."""
    return (
        _BY_ONEDNN is not None
        and a.ndim == b.ndim == 2
        and a.shape[0] * b.numel() >= _LEAST
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and not _is_watched(a, b)
        and _is_dense(a)
        and _is_dense(b)
    )


def _by_onednn(a, b):
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return _Product.apply(a, b)
    return _BY_ONEDNN(a, b.mT, None, "none", [], "")


def matmul(a, b):
    """``a @ b``."""
    return _by_onednn(a, b) if suits_onednn(a, b) else a @ b


def add_matmul(c, a, b, beta, alpha):
    """``beta c + alpha a @ b``."""
    if suits_onednn(a, b):
        return torch.add(beta * c, _by_onednn(a, b), alpha=alpha)
    return (torch.addmm if a.ndim == 2 else torch.baddbmm)(c, a, b, beta=beta, alpha=alpha)


def product(x, weight):
    """``x @ weight.T`` with an even inner size; both may have a leading axis of models.

    MKL rounds the rows of a matrix by where they start in memory; rows of an odd number of entries start
    differently, and a row's result would depend on its place in the block.
    """
    x, weight = _even(x, weight)
    return matmul(x, weight.mT)


def tanh_layer(x, weight, shift):
    """``tanh(x @ weight.T + shift)`` in one call of oneDNN, for matrices that :func:`suits_onednn`."""
    x, weight = _even(x, weight)
    return _BY_ONEDNN(x, weight, shift[0], "tanh", [], "")


def _even(x, weight):
    if x.shape[-1] % 2:
        return torch.nn.functional.pad(x, (0, 1)), torch.nn.functional.pad(weight, (0, 1))
    return x, weight
