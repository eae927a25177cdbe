"""Monotone maps of single columns towards the normal distribution."""

import math

import torch

from ._affine import Rotate, Scale, _Chained, check_floor
from ._base import Chain, moments

_TAIL = 0.5  # curvature of the logarithmic tails outside the tabulated range
_DF = 3.0  # the Student-t part of every marginal density
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_ENOUGH = 50_000  # rows that a map of one column is learnt from


def yeo_johnson(x, power):
    r"""The map of Yeo & Johnson, Biometrika 87 (2000) 954, and the log of its derivative.

    With the exponent :math:`p = \lambda` where x >= 0 and :math:`p = 2 - \lambda` where x < 0,
    :math:`y = \mathrm{sign}(x) ((1 + |x|)^p - 1) / p` (the logarithm at p = 0) and
    :math:`\log y' = (p - 1) \log(1 + |x|)`.
    """
    exponent = torch.where(x >= 0, power, 2.0 - power)
    log = torch.log1p(x.abs())
    tiny = exponent.abs() < 1e-8
    safe = torch.where(tiny, 1.0, exponent)
    y = torch.where(tiny, log, torch.expm1(safe * log) / safe)
    return torch.where(x >= 0, y, -y), (exponent - 1.0) * log


def _enough(x, weight):
    """At most ``_ENOUGH`` rows, evenly spaced, and their weights: more tell a column's shape no better."""
    if len(x) <= _ENOUGH:
        return x, weight
    rows = torch.linspace(0, len(x) - 1, _ENOUGH, dtype=torch.float64).round().long()
    return x[rows], weight[rows] / weight[rows].sum()


class YeoJohnson:
    """Yeo-Johnson per column, power by maximum likelihood in [0, 2], then standardised.

    Inside [0, 2] the map reaches every real number, so its inverse exists for any latent point.
    """

    def fit(self, x, weight):
        low, high = x.new_zeros(x.shape[1]), x.new_full((x.shape[1],), 2.0)
        golden, few = 0.5 * (math.sqrt(5.0) - 1.0), _enough(x, weight)
        for _ in range(24):  # golden section, interval 2 * 0.618^24 = 2e-5
            left, right = high - golden * (high - low), low + golden * (high - low)
            down = self._likelihood(*few, left) > self._likelihood(*few, right)
            low, high = torch.where(down, low, left), torch.where(down, right, high)
        self.power = 0.5 * (low + high)
        self.mean, std = moments(yeo_johnson(x, self.power)[0], weight)
        self.std = torch.where(std > 0, std, 1.0)
        return self

    @staticmethod
    def _likelihood(x, weight, power):
        y, log_derivative = yeo_johnson(x, power)
        return weight @ log_derivative - torch.log(moments(y, weight)[1])

    def forward(self, x):
        y, log_derivative = yeo_johnson(x, self.power)
        return (y - self.mean) / self.std, (log_derivative - self.std.log()).sum(1)

    def inverse(self, z):
        y = z * self.std + self.mean
        exponent = torch.where(y >= 0, self.power, 2.0 - self.power)
        tiny = exponent.abs() < 1e-8
        safe = torch.where(tiny, 1.0, exponent)
        log = torch.where(tiny, y.abs(), torch.log1p(safe * y.abs()) / safe)
        x = torch.expm1(log)
        return torch.where(y >= 0, x, -x)


class Marginals:
    """z = Phi^{-1}(F(x)) per column, F the distribution function of a smoothed density.

    The density of a column is a Gaussian kernel estimate, bandwidth by leave-one-out likelihood, with a
    small share (1 / sqrt(n), at most 0.1) of a Student-t with 3 degrees of freedom for the tails.  It is
    tabulated; between knots the map is a monotone rational-quadratic spline through the exact values and
    slopes (Gregory & Delbourgo, IMA J. Numer. Anal. 2 (1982) 123), outside it continues logarithmically.
    Value, derivative and inverse of the spline are closed-form, so the Jacobian is that of the map itself.
    A column whose kernel density is not better than a normal one keeps the identity.
    """

    n_cells = 4095  # 4096 knots: the FFT likes powers of two

    def fit(self, x, weight):
        x, weight = _enough(x, weight)
        tables = [self._column(column, weight) for column in x.T.contiguous()]
        self.active = torch.tensor([table is not None for table in tables])
        placeholder = (x.new_tensor(-1.0), x.new_tensor(2.0), x.new_ones(2), x.new_ones(2), 0.0)
        tables = [table or placeholder for table in tables]
        low, step, z, slope, optimism = zip(*tables, strict=True)
        self.low, self.step = torch.stack(low), torch.stack(step)
        self.count = torch.tensor([len(values) for values in z])
        self.offset = self.count.cumsum(0) - self.count
        self.z, self.slope = torch.cat(z), torch.cat(slope)
        self.optimism = float(sum(optimism))
        return self

    def _column(self, y, weight):
        """Table of one column, or None where a normal density does as well."""
        n_effective = 1.0 / float((weight**2).sum())
        if n_effective < 50:
            return None
        mean, std = (float(m) for m in moments(y[:, None], weight))
        low, high = float(y.min()), float(y.max())
        pad = 0.25 * (high - low)
        low, high = low - pad, high + pad
        step = (high - low) / self.n_cells
        grid = torch.linspace(low, high, self.n_cells + 1, dtype=y.dtype, device=y.device)
        share = min(0.1, 1.0 / math.sqrt(n_effective))
        kernel = _BinnedKernel(y, weight, low, step, self.n_cells)
        tail = torch.exp(_log_student((y - mean) / std)) / std
        best = (-weight @ (0.5 * ((y - mean) / std) ** 2) - math.log(std) - _LOG_SQRT_2PI, None, None, 0.0)
        for bandwidth in [0.6 * std * 2.0 ** (-0.5 * j) for j in range(22)]:
            if bandwidth < step:
                break
            density, at_rows, left_out = kernel.estimate(bandwidth)
            score = weight @ torch.log((1 - share) * left_out + share * tail)
            if score > best[0]:
                seen = weight @ torch.log((1 - share) * at_rows + share * tail)
                best = (score, density, bandwidth, float(seen - score))
        _, density, bandwidth, optimism = best
        if density is None:
            return None
        z, slope = _gaussianise(density, grid, share, mean, std, step)
        stride = 2 ** max(0, int(math.log2(max(0.5 * bandwidth / step, 1.0))))  # knots half a bandwidth apart
        return y.new_tensor(low), y.new_tensor(stride * step), z[::stride], slope[::stride], optimism

    def _cell(self, position):
        """Values and slopes at both ends of cell ``position`` (integers, one column per table)."""
        i = torch.minimum(position.clamp_min(0), self.count - 2) + self.offset
        return self.z[i], self.z[i + 1], self.slope[i], self.slope[i + 1]

    def _ends(self, side):
        i = self.offset if side < 0 else self.offset + self.count - 1
        x = self.low if side < 0 else self.low + self.step * (self.count - 1)
        return x, self.z[i], self.slope[i]

    def forward(self, x):
        u = (x - self.low) / self.step
        cell = torch.minimum(u.clamp_min(0.0), self.count - 2.0).floor()
        z0, z1, d0, d1 = self._cell(cell.long())
        theta = (u - cell).clamp(0.0, 1.0)
        rise, other = (z1 - z0) / self.step, 1.0 - theta
        bottom = rise + (d0 + d1 - 2.0 * rise) * theta * other
        z = z0 + (z1 - z0) * (rise * theta**2 + d0 * theta * other) / bottom
        top = rise**2 * (d1 * theta**2 + 2.0 * rise * theta * other + d0 * other**2)
        log_slope = torch.log(top) - 2.0 * torch.log(bottom)
        for side in (-1, 1):
            end, z_end, slope = self._ends(side)
            beyond = (x - end) * side > 0
            stretch = torch.log1p(_TAIL * slope * ((x - end) * side).clamp_min(0.0))
            z = torch.where(beyond, z_end + side * stretch / _TAIL, z)
            log_slope = torch.where(beyond, slope.log() - stretch, log_slope)
        z = torch.where(self.active, z, x)
        return z, torch.where(self.active, log_slope, 0.0).sum(1)

    def inverse(self, z):
        columns = []
        for j in range(z.shape[1]):  # binary search in every column's own table
            table = self.z[self.offset[j] : self.offset[j] + self.count[j]]
            columns.append(torch.searchsorted(table, z[:, j].contiguous(), right=True) - 1)
        cell = torch.minimum(torch.stack(columns, 1).clamp_min(0), self.count - 2)
        z0, z1, d0, d1 = self._cell(cell)
        rise, up = (z1 - z0) / self.step, (z - z0).clamp_min(0.0)
        curve = d0 + d1 - 2.0 * rise
        a = (z1 - z0) * (rise - d0) + up * curve
        b = (z1 - z0) * d0 - up * curve
        c = -rise * up
        theta = 2.0 * c / (-b - torch.sqrt((b * b - 4.0 * a * c).clamp_min(0.0)))
        x = self.low + self.step * (cell + theta.clamp(0.0, 1.0))
        for side in (-1, 1):
            end, z_end, slope = self._ends(side)
            beyond = (z - z_end) * side > 0
            stretch = torch.expm1(_TAIL * ((z - z_end) * side).clamp_min(0.0)) / (_TAIL * slope)
            x = torch.where(beyond, end + side * stretch, x)
        return torch.where(self.active, x, z)


class _BinnedKernel:
    """Gaussian kernel estimate of one column on a grid, by linear binning and FFT, O(n + m log m).

    ``closed``: the grid is a circle, its last point the first.
    """

    def __init__(self, y, weight, low, step, n_cells, *, closed=False):
        position = ((y - low) / step).clamp(0, n_cells)
        self.cell = position.floor().long().clamp_max(n_cells - 1)
        self.part = position - self.cell
        self.weight, self.size = weight, n_cells if closed else n_cells + 1
        self.next = (self.cell + 1) % self.size
        self.length = self.size if closed else 2 * self.size  # the rest is air
        counts = y.new_zeros(self.size)
        counts.index_add_(0, self.cell, weight * (1 - self.part))
        counts.index_add_(0, self.next, weight * self.part)
        self.spectrum = torch.fft.rfft(counts, self.length)
        lag = torch.arange(self.length, dtype=y.dtype, device=y.device)
        self.lag = torch.minimum(lag, self.length - lag) * step

    def estimate(self, bandwidth):
        """Density on the grid, at the rows, and at the rows with the row itself left out."""
        kernel = torch.exp(-0.5 * (self.lag / bandwidth) ** 2 - _LOG_SQRT_2PI) / bandwidth
        density = torch.fft.irfft(self.spectrum * torch.fft.rfft(kernel), self.length)
        density = density[: self.size].clamp_min(0.0)
        left, right = 1 - self.part, self.part
        at_rows = left * density[self.cell] + right * density[self.next]
        own = (left**2 + right**2) * kernel[0] + 2 * left * right * kernel[1]
        left_out = ((at_rows - self.weight * own) / (1 - self.weight)).clamp_min(0.0)
        return density, at_rows, left_out


def _log_student(u):
    constant = math.lgamma(2.0) - math.lgamma(1.5) - 0.5 * math.log(_DF * math.pi)
    return constant - 2.0 * torch.log1p(u * u / _DF)


def _student_tail(u):
    """P(T > u) for three degrees of freedom and u > 0, closed form."""
    v = u / math.sqrt(_DF)
    return (math.atan2(1.0, v) - v / (1.0 + v * v)) / math.pi


def _gaussianise(density, grid, share, mean, std, step):
    """Phi^{-1} of the distribution function on the grid, and its slope."""
    u = (grid - mean) / std
    density = (1.0 - share) * density + share * torch.exp(_log_student(u)) / std
    pieces = 0.5 * step * (density[1:] + density[:-1])
    start = density.new_zeros(1)
    below = torch.cat([start, pieces.cumsum(0)]) + share * _student_tail(-float(u[0]))
    above = torch.cat([start, pieces.flip(0).cumsum(0)]).flip(0) + share * _student_tail(float(u[-1]))
    total = below + above
    below, above, density = below / total, above / total, density / total
    # the smaller of the two probabilities keeps its relative precision
    z = torch.special.ndtri(torch.minimum(below, above))
    z = torch.where(below < above, z, -z)
    return z, density * torch.exp(0.5 * z * z + _LOG_SQRT_2PI)


class Gaussianize(_Chained):
    r"""Make every column normal, then remove the correlation; the default preprocessor.

    Four maps, each with a closed-form Jacobian: standardise; Yeo-Johnson with the power of maximum
    likelihood; :math:`z = \Phi^{-1}(F(x))` with F from a kernel density whose bandwidth is chosen by
    leave-one-out likelihood; whiten.  With a standard normal base and a flow at rest the model is a Gaussian
    copula with kernel marginals, and the flow learns what that leaves over.

    Parameters
    ----------
    density : bool or "auto", default="auto"
        Use the kernel marginals.  ``False`` stops at Yeo-Johnson.  ``"auto"``: the flow is trained with
        either, and the better one is kept: on validation rows, where ``copula_score_`` counts for 15 more of
        them.  It is trained on the quadratic loss; with the polish too where several networks are to be
        averaged, of up to 1000 rows, and the two are within three standard errors of each other.  Where there
        are no validation rows, the leave-one-out likelihood of the Gaussian copula decides.
    floor : float, default=1e-6
        Smallest eigenvalue of the covariance, as a fraction of their mean.

    Attributes
    ----------
    density_ : bool
        What ``"auto"`` chose.
    copula_score_ : float
        Mean log-density of the rows under the Gaussian copula, each left out of the kernel densities; nats,
        up to a constant that depends on ``d`` alone.
    """

    def __init__(self, density="auto", floor=1e-6):
        self.density = density
        self.floor = floor

    def candidates(self):
        """Preprocessors for the flow to choose from on validation rows."""
        if self.density != "auto":
            return [self]
        return [Gaussianize(density, self.floor) for density in (True, False)]

    def fit(self, x, weight):
        """Learn all four maps from ``x`` ``(n, d)`` with weights ``(n,)`` summing to 1."""
        if self.density not in (True, False, "auto"):
            raise ValueError(f"Gaussianize: density must be True, False or 'auto', got {self.density!r}.")
        check_floor(self)
        few, best = _enough(x, weight), None
        for density in (True, False) if self.density == "auto" else (self.density,):
            marginals = [Marginals()] if density else []
            chain = Chain(Scale(), YeoJohnson(), *marginals, Rotate(self.floor)).fit(x, weight)
            active = density and bool(marginals[0].active.any())
            score = _copula_likelihood(chain, *few) - (marginals[0].optimism if density else 0.0)
            if best is None or score > best[0]:
                best = score, chain, active
            if not active:
                break
        self.copula_score_, self.chain_, self.density_ = best
        return self


def _copula_likelihood(chain, x, weight):
    """Mean log-density of the rows where z is normal, less a constant."""
    z, log_det = chain.forward(x)
    value = float(weight @ (log_det - 0.5 * (z * z).sum(1)))
    return value if math.isfinite(value) else -math.inf
