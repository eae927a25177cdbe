"""Stochastic differential equations on given times."""

import itertools

import torch


def integrate_sde(drift, diffusion, x, knots, generator, method="heun"):
    r"""Solve :math:`dX = f(t, X)\,dt + \sqrt{2\epsilon(t)}\,dW` on given times, which may decrease.

    The noise of a step has the variance :math:`2\epsilon|h|` with epsilon at its middle.  ``"euler"`` is
    Euler-Maruyama; ``"heun"`` averages the drift of both ends, of weak order 2 since the noise does not
    depend on x (Kloeden & Platen, Numerical Solution of SDEs, sec. 15.1).

    Parameters
    ----------
    drift : callable
        ``f(t, x)`` of shape ``(n, d)``; backwards in time, the drift of the backward equation.
    diffusion : callable
        ``epsilon(t)``, scalar tensor.
    x : tensor of shape (n, d)
    knots : tensor of shape (m,)
    generator : torch.Generator
    method : {"heun", "euler"}, default="heun"

    Returns
    -------
    x : tensor of shape (n, d)
    """
    for t, t_next in itertools.pairwise(knots):
        h = t_next - t
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noise = torch.sqrt(2.0 * diffusion(t + 0.5 * h) * h.abs()) * noise
        slope = drift(t, x)
        if method == "heun":
            slope = 0.5 * (slope + drift(t_next, x + h * slope + noise))
        x = x + h * slope + noise
    return x
