"""The closed-form block as one differentiable operation: forward and backward written out by hand.

Autograd would reach the same numbers through three times as many elementwise passes; on a CPU these cost as
much as the matrix products.
"""

import torch
from torch.autograd.function import once_differentiable

from ._products import matmul, product, suits_onednn, tanh_layer


def _tanh(z):
    if z.is_cuda:
        y = torch.tanh(z)
    else:
        # 2 sigmoid(2 z) - 1: torch.tanh is MKL's, ten times slower than this on a processor of AMD
        y = torch.add(z.new_full((), -1.0), torch.sigmoid(2.0 * z), alpha=2.0)
    return y, torch.addcmul(y.new_ones(()), y, y, value=-1.0)


def _tanh_here(z):
    """The same, to the bit, in the memory of z."""
    z = z.tanh_() if z.is_cuda else torch.add(z.new_full((), -1.0), z.mul_(2.0).sigmoid_(), alpha=2.0, out=z)
    return z, torch.addcmul(z.new_ones(()), z, z, value=-1.0)


def _silu(z):
    s = torch.sigmoid(z)
    y = z * s
    return y, s + y * (1.0 - s)


def _softplus(z):
    return torch.nn.functional.softplus(z), torch.sigmoid(z)


# The gradient in z from those of the value y and of the slope a: a g_y + a' g_a.


def _tanh_gradient(z, y, slope, g_y, g_slope):
    return torch.addcmul(g_y, y, g_slope, value=-2.0).mul_(slope)


def _silu_gradient(z, y, slope, g_y, g_slope):
    s = torch.sigmoid(z)
    curvature = s * (1.0 - s) * (2.0 + z * (1.0 - 2.0 * s))
    return (slope * g_y).addcmul_(curvature, g_slope)


def _softplus_gradient(z, y, slope, g_y, g_slope):
    return torch.addcmul(g_y, 1.0 - slope, g_slope).mul_(slope)


# name -> (value and derivative, their gradient)
SMOOTH = {
    "tanh": (_tanh, _tanh_gradient),
    "silu": (_silu, _silu_gradient),
    "softplus": (_softplus, _softplus_gradient),
}


def _sum_to(gradient, like):
    """Gradient of a term that was broadcast over the rows."""
    return gradient.sum(-2, keepdim=True) if like.shape[-2] == 1 else gradient


class _Block(torch.autograd.Function):
    r"""Value and divergence of :class:`~siflow_sk.velocities.MLP`'s block.

    With :math:`p_1 = W_1 x, z_1 = s_1 p_1 + b_1, e_1 = s_1 a'(z_1)`, likewise
    :math:`p_2 = W_2 a(z_1), z_2 = s_2 p_2 + b_2, e_2 = s_2 a'(z_2)`:
    :math:`v = W_3 a(z_2)` and :math:`\nabla\cdot v = e_2^\top M e_1`.
    """

    @staticmethod
    def forward(ctx, activation, x, b1, s1, b2, s2, w1, w2, w3, mixed):
        act = SMOOTH[activation][0]
        p1 = product(x, w1)
        z1 = torch.addcmul(b1, p1, s1)
        h1, a1 = act(z1)
        e1 = a1 * s1
        p2 = product(h1, w2)
        z2 = torch.addcmul(b2, p2, s2)
        h2, a2 = act(z2)
        e2 = a2 * s2
        q = product(e1, mixed)
        ctx.activation = activation
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, b1, s1, b2, s2, w1, w2, w3, mixed, p1, z1, h1, a1, e1, p2, z2, h2, a2, e2, q)
        return product(h2, w3), (q * e2).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_v, g_div, *_):
        x, b1, s1, b2, s2, w1, w2, w3, mixed, p1, z1, h1, a1, e1, p2, z2, h2, a2, e2, q = ctx.saved_tensors
        gradient = SMOOTH[ctx.activation][1]
        g_v = torch.zeros_like(x) if g_v is None else g_v
        c = x.new_zeros(*x.shape[:-1], 1) if g_div is None else g_div[..., None]
        g_e2, g_q = c * q, c * e2
        g_z2 = gradient(z2, h2, a2, matmul(g_v, w3), g_e2 * s2)
        g_s2 = _sum_to((g_e2 * a2).addcmul_(g_z2, p2), s2)
        g_p2 = g_z2 * s2
        g_e1 = matmul(g_q, mixed)
        g_z1 = gradient(z1, h1, a1, matmul(g_p2, w2), g_e1 * s1)
        g_s1 = _sum_to((g_e1 * a1).addcmul_(g_z1, p1), s1)
        g_p1 = g_z1 * s1
        return (
            None,
            matmul(g_p1, w1),
            _sum_to(g_z1, b1),
            g_s1,
            _sum_to(g_z2, b2),
            g_s2,
            matmul(g_p1.mT, x),
            matmul(g_p2.mT, h1),
            matmul(g_v.mT, h2),
            matmul(g_q.mT, e1),
        )


def _evaluate(activation, x, b1, s1, b2, s2, w1, w2, w3, mixed):
    """As :class:`_Block`, to the bit, in as few tensors as it takes: the caches hold them all."""
    act = _tanh_here if activation == "tanh" else SMOOTH[activation][0]
    z = product(x, w1)
    h, a = act(torch.addcmul(b1, z, s1, out=z))
    z = product(h, w2)
    q = product(a.mul_(s1), mixed)
    del h, a  # so the next ones take their place
    h, a = act(torch.addcmul(b2, z, s2, out=z))
    return product(h, w3), q.mul_(a.mul_(s2)).sum(-1)


def _folded(x, b1, s1, b2, s2, w1, w2, w3, mixed):
    """As :class:`_Block` with tanh, but for rounding: scales in the weights, shifts and tanh in the products.

    Of as many rows as units or more, since passes over the rows become such over the weights.
    """
    column, one = s2.mT, x.new_ones(())
    h = tanh_layer(x, w1 * s1.mT, b1)
    q = product(torch.addcmul(one, h, h, value=-1.0), mixed * s1 * column)
    h = tanh_layer(h, w2 * column, b2)
    return product(h, w3), q.mul_(torch.addcmul(one, h, h, value=-1.0)).sum(-1)


def block(activation, x, b1, s1, b2, s2, w1, w2, w3, mixed):
    """``(v, div v)`` of one block, differentiable once in every argument but the first.

    All of them may have a leading axis of models, each with weights and rows of its own.

    Parameters
    ----------
    activation : str
        A key of ``SMOOTH``.
    x : tensor of shape (n, d)
    b1, s1, b2, s2 : tensor of shape (1, h) or (n, h)
        Biases and scales at the time of each row.
    w1, w2, w3 : tensor of shape (h, d), (h, h), (d, h)
    mixed : tensor of shape (h, h)
        ``w2 * (w1 @ w3).T``.
    """
    weights = (x, b1, s1, b2, s2, w1, w2, w3, mixed)
    if torch.is_grad_enabled():
        return _Block.apply(activation, *weights)
    folds = activation == "tanh" and s1.shape[-2] == 1 and len(x) >= len(w2) and suits_onednn(x, w2)
    return _folded(*weights) if folds else _evaluate(activation, *weights)
