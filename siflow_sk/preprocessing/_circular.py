"""Monotone maps of single angles towards the uniform distribution."""

import math

import torch

from ._marginal import Marginals, _BinnedKernel

TURN = 2.0 * math.pi


class CircularMarginals(Marginals):
    r""":math:`\varphi\mapsto 2\pi F(\varphi)` per angle in [0, 2 pi), F from a density on the circle.

    As :class:`~siflow_sk.preprocessing._marginal.Marginals`, with the kernel wound around the circle and a
    uniform density for the small share.  The spline has the same slope at both ends, so that the density is
    continuous across the seam.  An angle whose kernel density is not better than the uniform one keeps the
    identity.
    """

    n_cells = 4096

    def _column(self, y, weight):
        n_effective = 1.0 / float((weight**2).sum())
        if n_effective < 50:
            return None
        step, share = TURN / self.n_cells, min(0.1, 1.0 / math.sqrt(n_effective))
        kernel = _BinnedKernel(y, weight, 0.0, step, self.n_cells, closed=True)
        best = (-math.log(TURN), None, None, 0.0)
        for bandwidth in [2.0 ** (-0.5 * j) for j in range(18)]:
            density, at_rows, left_out = kernel.estimate(bandwidth)
            score = float(weight @ torch.log((1 - share) * left_out + share / TURN))
            if score > best[0]:
                seen = float(weight @ torch.log((1 - share) * at_rows + share / TURN))
                best = (score, density, bandwidth, seen - score)
        _, density, bandwidth, optimism = best
        if density is None:
            return None
        density = (1 - share) * density / (density.sum() * step) + share / TURN
        slope = TURN * torch.cat([density, density[:1]])
        z = torch.cat([slope.new_zeros(1), (0.5 * step * (slope[1:] + slope[:-1])).cumsum(0)])
        z, slope = z * (TURN / z[-1]), slope * (TURN / z[-1])
        stride = 2 ** max(0, int(math.log2(max(0.5 * bandwidth / step, 1.0))))  # knots half a bandwidth apart
        return y.new_tensor(0.0), y.new_tensor(stride * step), z[::stride], slope[::stride], optimism
