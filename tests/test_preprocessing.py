"""Invertible maps of the data: Jacobians against autograd, round trips, extremes, weights, known formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.preprocessing import PowerTransformer

from siflow_sk.preprocessing import (
    PREPROCESSORS,
    Gaussianize,
    Identity,
    Preprocessor,
    Standardize,
    Whiten,
    _marginal,
)
from siflow_sk.preprocessing._marginal import Marginals, YeoJohnson, yeo_johnson

# name -> constructor
CASES = {
    **PREPROCESSORS,
    "whiten_floor": lambda: Whiten(floor=1e-2),
    "gaussianize_density": lambda: Gaussianize(density=True),
    "gaussianize_no_density": lambda: Gaussianize(density=False),
}


def table(n=400, seed=0):
    """Skewed, two-humped and nearly normal columns, correlated; float64 tensor (n, 3)."""
    rng = np.random.default_rng(seed)
    skewed = np.exp(rng.standard_normal(n))
    humps = rng.choice([-2.0, 2.0], n) + 0.4 * rng.standard_normal(n)
    plain = rng.standard_normal(n) + 0.5 * humps + 0.2 * skewed
    return torch.tensor(np.stack([skewed, humps, plain], axis=1))


def even(n):
    return torch.full((n,), 1.0 / n, dtype=torch.float64)


def fitted(name, x=None):
    x = table() if x is None else x
    preprocessor = CASES[name]()
    return preprocessor.fit(x, even(len(x))) or preprocessor


def points():
    """Rows seen, rows unseen, and rows far outside in every direction."""
    far = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return torch.cat([table()[:40], table(seed=1)[:40], 10.0 * far, 1000.0 * far])


@pytest.mark.parametrize("name", CASES)
def test_log_det_is_that_of_the_jacobian(name):
    preprocessor, x = fitted(name), points()
    jacobian = torch.autograd.functional.jacobian(lambda y: preprocessor.forward(y)[0].sum(0), x)
    expected = torch.linalg.slogdet(jacobian.permute(1, 0, 2))[1]
    z, log_det = preprocessor.forward(x)
    assert z.shape == (140, 3)
    assert log_det.shape == (140,)
    assert log_det.dtype == z.dtype == torch.float64
    torch.testing.assert_close(log_det, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_round_trip_from_the_data(name):
    preprocessor, x = fitted(name), points()
    torch.testing.assert_close(preprocessor.inverse(preprocessor.forward(x)[0]), x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_round_trip_from_the_latent_space(name):
    preprocessor = fitted(name)
    z = 3.0 * torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    x = preprocessor.inverse(z)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(preprocessor.forward(x)[0], z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_influence_each_other(name):
    preprocessor, x = fitted(name), points()
    z, log_det = preprocessor.forward(x)
    other = x.clone()
    other[3] = 1e9
    z_other, log_det_other = preprocessor.forward(other)
    keep = [i for i in range(len(x)) if i != 3]
    assert torch.equal(z[keep], z_other[keep])
    assert torch.equal(log_det[keep], log_det_other[keep])


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e12, 1e-12])
@pytest.mark.parametrize("name", sorted(set(CASES) - {"none"}))
def test_extreme_units_change_the_log_det_alone(name, scale):
    x = table()
    z, log_det = fitted(name).forward(x)
    z_scaled, log_det_scaled = fitted(name, x * scale).forward(x * scale)
    torch.testing.assert_close(z_scaled, z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_det_scaled, log_det - 3 * math.log(scale), rtol=0, atol=1e-7)
    back = fitted(name, x * scale).inverse(z_scaled)
    torch.testing.assert_close(back / scale, x, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("exponent", [-900, -3, 5, 900])
@pytest.mark.parametrize("name", sorted(set(CASES) - {"none"}))
def test_units_that_are_powers_of_two_change_no_bit(name, exponent):
    x = table()
    unit = 2.0**exponent
    assert torch.equal(fitted(name, x * unit).forward(x * unit)[0], fitted(name).forward(x)[0])


@pytest.mark.parametrize("name", sorted(set(CASES) - {"none"}))
def test_a_large_offset_costs_only_the_digits_it_hides(name):
    x = torch.round(table() * 2.0**10) / 2.0**10  # so that x + 1e12 is exact
    z, log_det = fitted(name, x).forward(x)
    z_moved, log_det_moved = fitted(name, x + 1e12).forward(x + 1e12)
    torch.testing.assert_close(z_moved, z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det_moved, log_det, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted(name, x + 1e12).inverse(z_moved), x + 1e12, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["none", "standardize", "whiten", "whiten_floor", "gaussianize_no_density"])
def test_weights_mean_repetition(name):
    x = table(60)
    times = torch.arange(60) % 4  # weight zero means absent
    repeated = fitted(name, x.repeat_interleave(times, dim=0))
    weighted = CASES[name]()
    keep = times > 0
    weighted.fit(x[keep], times[keep].double() / times.sum())
    for actual, expected in zip(weighted.forward(points()), repeated.forward(points()), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_a_column_without_spread_is_moved_and_not_scaled():
    x = table()
    x[:, 1] = 7.0
    map_ = fitted("standardize", x)
    z, log_det = map_.forward(x)
    assert (z[:, 1] == 0.0).all()
    alone = fitted("standardize", x[:, [0, 2]]).forward(x[:, [0, 2]])
    torch.testing.assert_close(z[:, [0, 2]], alone[0])
    torch.testing.assert_close(log_det, alone[1])
    torch.testing.assert_close(map_.inverse(z), x)


@pytest.mark.parametrize("name", ["standardize", "whiten"])
def test_moments_of_the_latent_rows(name):
    z = fitted(name).forward(table())[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3).double(), rtol=1e-12, atol=0)
    if name == "whiten":
        torch.testing.assert_close(z.T @ z / len(z), torch.eye(3).double(), rtol=0, atol=1e-11)


def test_none_changes_nothing():
    x = points()
    z, log_det = Identity().forward(x)
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(140).double())


def test_collinear_columns_stay_invertible():
    x = table()
    x = torch.cat([x, x[:, :1] + x[:, 1:2]], dim=1)
    preprocessor = Whiten().fit(x, even(len(x)))
    z, log_det = preprocessor.forward(x)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_det).all()
    torch.testing.assert_close(preprocessor.inverse(z), x, rtol=1e-9, atol=1e-9)


def test_the_eigenvalue_floor_is_a_fraction_of_the_mean():
    """The log-determinant of the whitening by NumPy, with and without a floor that bites."""
    x = table().numpy()
    std = x.std(axis=0)
    values = np.linalg.eigvalsh(np.corrcoef(x.T))
    for floor in (1e-6, 0.8):
        expected = -0.5 * np.log(np.maximum(values, floor * values.mean())).sum() - np.log(std).sum()
        log_det = Whiten(floor=floor).fit(table(), even(400)).forward(table())[1]
        np.testing.assert_allclose(log_det.numpy(), expected, rtol=1e-12)
    assert values.min() < 0.8 * values.mean()


def test_an_unfinished_preprocessor_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"^Preprocessor must define forward\(x\)\.$"):
        Preprocessor().forward(points())
    with pytest.raises(NotImplementedError, match=r"^Preprocessor must define inverse\(z\)\.$"):
        Preprocessor().inverse(points())


# -- Yeo-Johnson ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 1e-9, 1e-3, 0.5, 1.0, 1.7, 2.0 - 1e-9, 2.0])
def test_yeo_johnson_is_the_formula_of_scipy(power):
    x = np.concatenate([np.linspace(-30, 30, 301), [1e-12, -1e-12, 0.0, 1e6, -1e6]])
    y, log_derivative = yeo_johnson(torch.tensor(x), torch.tensor(power, dtype=torch.float64))
    # SciPy loses digits at powers next to 0 and 2: there the limit is the better oracle
    exact = stats.yeojohnson(x, round(power, 6))
    np.testing.assert_allclose(y.numpy(), exact, rtol=1e-7 if power in (1e-9, 2.0 - 1e-9) else 1e-9)
    points = torch.tensor(x[x != 0]).requires_grad_(True)
    value, log_slope = yeo_johnson(points, torch.tensor(power, dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), points)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)
    assert log_derivative.shape == x.shape


def test_the_power_is_that_of_scikit_learn():
    """Maximum likelihood, where it lies inside [0, 2]."""
    x = Standardize().fit(table(), even(400)).forward(table())[0]
    oracle = PowerTransformer(method="yeo-johnson").fit(x.numpy())
    inside = (oracle.lambdas_ > 0.01) & (oracle.lambdas_ < 1.99)
    assert inside.sum() >= 2
    ours = YeoJohnson().fit(x, even(400))
    np.testing.assert_allclose(ours.power.numpy()[inside], oracle.lambdas_[inside], atol=1e-3)
    expected = oracle.transform(x.numpy())[:, inside]
    np.testing.assert_allclose(ours.forward(x)[0].numpy()[:, inside], expected, atol=5e-3)


def test_the_power_map_ends_with_zero_mean_and_unit_deviation():
    x = torch.cat([0.05 * table(), torch.zeros(400, 1, dtype=torch.float64)], 1)
    z = YeoJohnson().fit(x, even(400)).forward(x)[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]).double())


# -- marginal maps -----------------------------------------------------------------------------------------


def marginals(n=1000):
    x = Standardize().fit(table(n), even(n)).forward(table(n))[0]
    return Marginals().fit(x, even(n)), x


def far_grid():
    """x = sinh u from -1e5 to 1e5 in three equal columns."""
    u = torch.linspace(-12.2, 12.2, 40_001, dtype=torch.float64)
    return u, torch.sinh(u)[:, None].expand(-1, 3)


def test_the_tail_is_that_of_student_with_three_degrees():
    u = np.r_[0.01, np.linspace(0.1, 50.0, 40)]
    np.testing.assert_allclose(
        _marginal._log_student(torch.tensor(u)).numpy(), stats.t(3).logpdf(u), rtol=1e-12
    )
    np.testing.assert_allclose([_marginal._student_tail(v) for v in u], stats.t(3).sf(u), rtol=1e-9)


@pytest.mark.parametrize("bandwidth", [0.02, 0.3])
def test_the_binned_kernel_is_the_sum_of_kernels(bandwidth):
    """Rows on the knots, of unequal weights: on the grid, at the rows, and without the row itself."""
    rng, low, step, n = np.random.default_rng(0), -1.0, 0.01, 255
    grid, rows = low + step * np.arange(n + 1), np.r_[0, n, rng.integers(20, 230, 38)]
    weight = rng.dirichlet(np.ones(40))
    kernel = _marginal._BinnedKernel(*map(torch.tensor, (grid[rows], weight)), low, step, n)
    density, at_rows, left_out = (a.numpy() for a in kernel.estimate(bandwidth))
    sums = stats.norm.pdf(grid[:, None], grid[rows], bandwidth)
    np.testing.assert_allclose(density, sums @ weight, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(at_rows, (sums @ weight)[rows], rtol=1e-9, atol=1e-9)
    others = np.where(np.eye(40, dtype=bool), 0.0, weight) / (1.0 - weight[:, None])
    np.testing.assert_allclose(left_out, (sums[rows] * others).sum(1), rtol=1e-7, atol=1e-7)


def test_between_knots_the_binned_kernel_is_close():
    rng, step = np.random.default_rng(1), 0.01
    y = rng.uniform(-0.5, 0.5, 30)
    kernel = _marginal._BinnedKernel(torch.tensor(y), even(30), -1.0, step, 200)
    _, at_rows, left_out = (a.numpy() for a in kernel.estimate(0.1))
    exact = stats.norm.pdf(y[:, None], y, 0.1)
    np.testing.assert_allclose(at_rows, exact.mean(1), rtol=2 * (step / 0.1) ** 2)
    np.testing.assert_allclose(left_out, (exact.sum(1) - np.diag(exact)) / 29, rtol=0.05)


@pytest.mark.parametrize("end", [0.0, 2.0])
def test_the_end_of_a_closed_grid_is_its_beginning(end):
    kernel = _marginal._BinnedKernel(torch.tensor([end]).double(), even(1), 0.0, 0.125, 16, closed=True)
    lag = np.minimum(np.arange(16), 16 - np.arange(16)) * 0.125
    np.testing.assert_allclose(kernel.estimate(0.2)[0].numpy(), stats.norm.pdf(lag, 0.0, 0.2), atol=1e-12)


def test_the_map_of_a_known_density_is_its_quantile_transform():
    """A normal body with a tenth of Student's t, off centre; 4,096 knots."""
    mean, std, share = 2.0, 1.5, 0.1
    grid = np.linspace(mean - 9.0, mean + 12.0, 4096)
    body, tail = stats.norm(2.5, 1.2), stats.t(3, mean, std)
    z, slope = _marginal._gaussianise(
        *map(torch.tensor, (body.pdf(grid), grid)), share, mean, std, grid[1] - grid[0]
    )
    below = (1 - share) * body.cdf(grid) + share * tail.cdf(grid)
    above = (1 - share) * body.sf(grid) + share * tail.sf(grid)
    expected = np.where(below < above, stats.norm.ppf(below), stats.norm.isf(above))
    np.testing.assert_allclose(z.numpy(), expected, rtol=0, atol=2e-5)
    density = (1 - share) * body.pdf(grid) + share * tail.pdf(grid)
    np.testing.assert_allclose(slope.numpy(), density / stats.norm.pdf(expected), rtol=1e-4)


def test_the_map_of_a_density_that_is_not_normalised_has_the_slope_that_it_says():
    grid = torch.linspace(-6.0, 6.0, 4097, dtype=torch.float64)
    density = 3.0 * torch.exp(-0.5 * grid**2)
    z, slope = _marginal._gaussianise(density, grid, 0.1, 0.0, 1.0, float(grid[1] - grid[0]))
    numerical = (z[2:] - z[:-2]) / (grid[2:] - grid[:-2])
    torch.testing.assert_close(slope[1:-1], numerical, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n", [80, 400])
def test_a_column_gets_the_bandwidth_of_the_best_left_out_likelihood(n):
    """Against explicit sums of kernels; with a normal density instead where that does as well."""
    rng = np.random.default_rng(3)
    y = rng.choice([3.0, 7.0], n) + 0.4 * rng.standard_normal(n)
    share, mean, std = min(0.1, n**-0.5), y.mean(), y.std()
    tail = share * stats.t(3, mean, std).pdf(y)

    def scores(h):
        pairs = stats.norm.pdf(y[:, None], y, h)
        alone = (pairs.sum(1) - np.diag(pairs)) / (n - 1)
        return [np.log((1 - share) * f + tail).mean() for f in (alone, pairs.mean(1))]

    (left_out, seen), h = max((scores(h), h) for h in 0.6 * std * 2.0 ** (-0.5 * np.arange(16)))
    assert left_out > stats.norm(mean, std).logpdf(y).mean() + 0.3
    low, step, z, slope, optimism = Marginals()._column(torch.tensor(y), even(n))
    assert optimism == pytest.approx(seen - left_out, rel=0.02)
    # a table of that density, from well below the rows to well above them
    assert 0.25 * h < step <= 0.5 * h
    knots = float(low) + float(step) * np.arange(len(z))
    assert knots[0] < y.min() - 5 * h
    assert knots[-1] > y.max() + 5 * h
    kernels = stats.norm.pdf(knots[:, None], y, h).mean(1)
    expected = (1 - share) * kernels + share * stats.t(3, mean, std).pdf(knots)
    np.testing.assert_allclose(slope.numpy() * stats.norm.pdf(z.numpy()), expected, rtol=2e-3)
    assert Marginals()._column(torch.tensor(stats.norm.ppf((np.arange(n) + 0.5) / n)), even(n)) is None


def test_marginal_maps_are_increasing():
    maps, _ = marginals()
    assert maps.active[:2].all()
    z = maps.forward(far_grid()[1])[0]
    assert (z.diff(dim=0) > 0).all()
    assert (z[0] < -10).all()
    assert (z[-1] > 10).all()


def test_at_the_ends_of_its_table_a_map_has_the_value_of_the_table():
    maps, _ = marginals()
    for side in (-1, 1):
        end, z, slope = maps._ends(side)
        found, log_slope = maps.forward(end[None])
        active = maps.active
        torch.testing.assert_close(found[0, active], z[active], rtol=1e-12, atol=0)
        torch.testing.assert_close(log_slope[0], slope[active].log().sum(), rtol=1e-9, atol=0)
        torch.testing.assert_close(maps.inverse(found), end[None], rtol=1e-12, atol=1e-12)


def test_a_narrow_column_gets_all_the_knots():
    rng = np.random.default_rng(3)
    y = torch.tensor(rng.choice([-2.0, 2.0], 400) + 0.001 * rng.standard_normal(400))
    _, step, z, *_ = Marginals()._column(y, even(400))
    assert len(z) == 4096
    assert float(step) == pytest.approx(1.5 * float(y.max() - y.min()) / 4095)


def test_marginal_densities_integrate_to_one():
    maps, _ = marginals()
    u, x = far_grid()
    z = maps.forward(x)[0]
    for j in range(3):
        # the log-slope of one column: the others are held where they are, at the median
        held = torch.zeros_like(x).contiguous()
        held[:, j] = x[:, j]
        log_slope = maps.forward(held)[1] - maps.forward(torch.zeros(1, 3).double())[1]
        alone = torch.zeros(2, 3).double()
        alone[1, j] = 1e-6
        z0, z1 = maps.forward(alone)[0][:, j]
        log_slope = log_slope + torch.log((z1 - z0) / 1e-6)  # slope at zero by a difference
        density = torch.exp(log_slope - 0.5 * z[:, j] ** 2) / math.sqrt(2 * math.pi) * torch.cosh(u)
        assert torch.trapezoid(density, u).item() == pytest.approx(1.0, abs=1e-4)


def test_marginal_maps_make_columns_normal():
    """Kolmogorov-Smirnov on the rows it was fitted to and on new ones, level 1e-6 each."""
    maps, x = marginals(2000)
    fresh = Standardize().fit(table(2000), even(2000)).forward(table(2000, seed=9))[0]
    for rows in (x, fresh):
        for column in maps.forward(rows)[0].numpy().T:
            assert stats.kstest(column, stats.norm.cdf).pvalue > 1e-6
    assert stats.kstest(x[:, 0].numpy(), stats.norm.cdf).pvalue < 1e-6


def test_too_few_rows_leave_the_columns_alone():
    x = table(40)
    maps = Marginals().fit(x, even(40))
    z, log_det = maps.forward(x)
    assert not maps.active.any()
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(40).double())
    assert torch.equal(maps.inverse(z), x)


def test_gaussianize_alone_is_close_to_the_truth_on_independent_columns():
    """A normal copula with kernel marginals, 3000 rows: mean log-density within 0.05 of the true one."""
    rng = np.random.default_rng(0)

    def draw(n):
        return np.stack(
            [np.exp(rng.standard_normal(n)), rng.choice([-2.0, 2.0], n) + 0.5 * rng.standard_normal(n)], 1
        )

    def truth(x):
        humps = 0.5 * stats.norm(-2, 0.5).pdf(x[:, 1]) + 0.5 * stats.norm(2, 0.5).pdf(x[:, 1])
        return stats.lognorm(1.0).logpdf(x[:, 0]) + np.log(humps)

    rows, fresh = draw(3000), draw(3000)
    preprocessor = Gaussianize().fit(torch.tensor(rows), even(3000))
    assert preprocessor.density_
    z, log_det = preprocessor.forward(torch.tensor(fresh))
    found = stats.norm.logpdf(z.numpy()).sum(1) + log_det.numpy()
    assert abs(np.mean(found - truth(fresh))) < 0.05


@pytest.mark.parametrize("name", ["rows", "uneven"])
def test_a_column_is_left_alone_below_fifty_rows_or_as_many_in_weight(name):
    rng = np.random.default_rng(3)
    y = torch.tensor(rng.choice([-2.0, 2.0], 120) + 0.1 * rng.standard_normal(120))
    for n, known in ((48, False), (52, True)):
        weight = torch.zeros(120, dtype=torch.float64)
        weight[:n] = 1.0 / n
        found = Marginals()._column(y, weight) if name == "uneven" else Marginals()._column(y[:n], even(n))
        assert (found is not None) == known


@pytest.mark.parametrize(("density", "chosen"), [(False, False), (True, True)])
def test_gaussianize_says_whether_it_used_the_kernel_marginals(density, chosen):
    assert Gaussianize(density=density).fit(table(), even(400)).density_ is chosen


def test_gaussianize_leaves_the_marginals_out_where_a_normal_is_better():
    x = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert Gaussianize().fit(x, even(400)).density_ is False


def test_kernel_marginals_that_hide_a_line_are_kept_only_on_request():
    """Two columns next to equal are nearly a line; what their own maps make of it is none."""
    rng = np.random.default_rng(0)
    humps = rng.choice([-2.0, 2.0], 400) + 0.6 * rng.standard_normal(400)
    x = torch.tensor(np.stack([humps, humps + 0.01 * rng.standard_normal(400)], 1))
    assert [Gaussianize(density=d).fit(x, even(400)).density_ for d in (True, "auto")] == [True, False]


@pytest.mark.parametrize("floor", [1e-6, 0.8])
def test_without_kernels_the_copula_is_a_normal_distribution(floor):
    """That of the rows, the small eigenvalues of the correlation raised to the floor."""
    x, weight = table(), torch.arange(400).double() / 79_800
    found = _marginal._copula_likelihood(Whiten(floor=floor).fit(x, weight), x, weight)
    covariance = np.cov(x.T, aweights=weight, bias=True)
    std = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(std, std))
    raised = (vectors * np.maximum(values, floor * values.mean())) @ vectors.T * np.outer(std, std)
    law = stats.multivariate_normal(weight @ x, raised)
    expected = weight.numpy() @ law.logpdf(x.numpy()) + 1.5 * math.log(2.0 * math.pi)
    assert found == pytest.approx(expected, rel=1e-9)


def test_both_kinds_of_marginals_are_candidates():
    parts = Gaussianize(floor=1e-3).candidates()
    assert [(part.density, part.floor) for part in parts] == [(True, 1e-3), (False, 1e-3)]
    for density in (True, False):
        part = Gaussianize(density=density)
        assert part.candidates() == [part]


def test_columns_of_many_rows_are_learnt_from_evenly_spaced_ones(monkeypatch):
    """A tenth of the rows gives nearly the map of all, and the variance is still that of all rows."""
    x = torch.tensor(np.random.default_rng(0).gamma(2.0, size=(20_000, 1)))
    weight = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    whole = PREPROCESSORS["gaussianize"](density=True).fit(x, weight)
    monkeypatch.setattr(_marginal, "_ENOUGH", 2000)
    part = PREPROCESSORS["gaussianize"](density=True).fit(x, weight)
    (z, log_det), (z_part, log_det_part) = whole.forward(x), part.forward(x)
    assert not torch.equal(z, z_part)
    assert (z - z_part).abs().mean() < 0.05
    assert abs((log_det - log_det_part).mean()) < 0.05
    assert z_part.std().item() == pytest.approx(1.0, abs=1e-3)
    rows, weights = _marginal._enough(torch.arange(20_000.0), weight)
    assert len(rows) == 2000
    assert (rows[0], rows[-1]) == (0.0, 19_999.0)
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "none"])
def test_a_copy_for_another_device_holds_every_tensor_there(name):
    """On the device "meta", which refuses tensors from elsewhere."""
    preprocessor, x = fitted(name), points()
    z, log_det = preprocessor.copy_to("meta").forward(x.to("meta"))
    assert {z.device.type, log_det.device.type} == {"meta"}
    torch.testing.assert_close(preprocessor.inverse(preprocessor.forward(x[:80])[0]), x[:80])
