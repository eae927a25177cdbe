"""Networks that know their divergence, against reverse-mode autograd."""

import copy
import itertools

import pytest
import torch
from oracles import BENT, NORMAL, ExactVelocity, PlainVelocity, trace_of_jacobian
from scipy import stats
from torch import nn

from siflow_sk._kernel import _products, add_matmul, block, matmul, product
from siflow_sk.velocities import (
    ACTIVATIONS,
    MLP,
    VELOCITIES,
    ResidualMLP,
    Velocity,
    exact_divergence,
    given,
    hold_weights,
    in_single,
    probed_divergence,
    velocity_and_divergence,
)

# name -> recipe; every activation and several depths of every network
CASES = {
    **{
        f"mlp-{activation}-{blocks}": MLP(width=11, n_blocks=blocks, activation=activation, time_width=5)
        for activation, blocks in itertools.product(ACTIVATIONS, (1, 2, 3))
    },
    **{
        f"residual-{activation}-{depth}": ResidualMLP(
            width=11, depth=depth, activation=activation, time_width=5
        )
        for activation, depth in itertools.product(ACTIVATIONS, (1, 3))
    },
}


def build(recipe, d, seed=0):
    """The network in float64 with every parameter at random, none left at the zero it starts from."""
    generator = torch.Generator().manual_seed(seed)
    network = recipe.build(d, generator).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return network


def times(shape, generator):
    return torch.rand(shape, dtype=torch.float64, generator=generator)


def test_every_named_network_is_covered():
    assert {name.split("-")[0] for name in CASES} == set(VELOCITIES)


@pytest.mark.parametrize("shape", [(), (9, 1)], ids=["one time", "a time per row"])
@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_divergence_is_the_trace_of_the_jacobian(name, d, shape, generator):
    network = build(CASES[name], d)
    x = torch.randn(9, d, dtype=torch.float64, generator=generator)
    t = times(shape, generator)
    value, divergence = network.value_and_divergence(t, x)
    expected = trace_of_jacobian(network, t, x)
    assert expected.abs().mean() > 0.05  # else the comparison would say little
    assert value.shape == (9, d)
    assert divergence.shape == (9,)
    torch.testing.assert_close(divergence, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(value, network(t, x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(network.divergence(t, x), divergence, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mlp-tanh-1", "residual-silu-3"])
def test_one_time_is_the_same_time_for_every_row(name, generator):
    network = build(CASES[name], 3)
    x = torch.randn(9, 3, dtype=torch.float64, generator=generator)
    t = torch.tensor(0.3, dtype=torch.float64)
    for one, each in zip(
        network.value_and_divergence(t, x), network.value_and_divergence(t.expand(9, 1), x), strict=True
    ):
        torch.testing.assert_close(one, each, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_divergence_can_be_trained(name, generator):
    """The gradient of the divergence with respect to the weights, against finite differences."""
    network = build(CASES[name], 2)
    x, t = torch.randn(3, 2, dtype=torch.float64, generator=generator), times((3, 1), generator)
    total = network.value_and_divergence(t, x)[1].sum()
    parameters = [p for p in network.parameters() if p.ndim == 2]
    gradients = torch.autograd.grad(total, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
            above = network.divergence(t, x).sum()
            parameter.sub_(2e-5 * direction)
            below = network.divergence(t, x).sum()
            parameter.add_(1e-5 * direction)
        torch.testing.assert_close((above - below) / 2e-5, (gradient * direction).sum(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_come_with_their_derivative(name):
    z = torch.linspace(-8.0, 8.0, 161, dtype=torch.float64, requires_grad=True)
    value, derivative = ACTIVATIONS[name](z)
    expected = {"tanh": torch.tanh, "silu": nn.functional.silu, "softplus": nn.functional.softplus}[name]
    torch.testing.assert_close(value, expected(z), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        derivative, torch.autograd.grad(expected(z).sum(), z)[0], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("d", [1, 2, 20])
def test_exact_divergence_is_the_trace(d, generator):
    """A linear field: the trace of its matrix; d = 20 needs more than one chunk of directions."""
    matrix = torch.randn(d, d, dtype=torch.float64, generator=generator)
    x = torch.randn(5, d, dtype=torch.float64, generator=generator)
    value, divergence = exact_divergence(lambda t, y: t * (y @ matrix.T), torch.tensor(0.5).double(), x)
    torch.testing.assert_close(value, 0.5 * x @ matrix.T)
    torch.testing.assert_close(divergence, (0.5 * matrix.trace()).expand(5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_a_field_without_divergence_gets_it_in_forward_mode(path, generator):
    """A mixture's field, whose divergence is known; also with a time per row."""
    exact = ExactVelocity(path, NORMAL, BENT)
    x, t = torch.randn(9, 2, dtype=torch.float64, generator=generator), times((9, 1), generator)
    found = velocity_and_divergence(PlainVelocity(exact), t, x)
    for actual, expected in zip(found, exact.value_and_divergence(t, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_the_mean_over_all_probes_is_the_trace(generator):
    """Hutchinson's estimate is unbiased: over the 2^d sign vectors it averages to the trace exactly."""
    network = build(CASES["residual-silu-3"], 4)
    x, t = torch.randn(9, 4, dtype=torch.float64, generator=generator), times((), generator)
    probes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    value, mean = probed_divergence(network.forward, t, x, probes)
    expected = trace_of_jacobian(network, t, x)
    torch.testing.assert_close(value, network(t, x))
    torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-11)
    single = probed_divergence(network.forward, t, x, probes[:1])[1]
    assert (single - expected).abs().max() > 1e-2


def test_probes_are_signs_drawn_once_from_the_generator(generator):
    recipe = ResidualMLP(width=8, depth=1, divergence="hutchinson", n_probes=500)
    probes = recipe.build(4, generator).probes
    assert probes.shape == (500, 4)
    assert torch.equal(probes.abs(), torch.ones(500, 4))
    assert (probes.mean(0).abs() < 5.0 / 500**0.5).all()  # 5 standard errors, 4 columns: level 2e-6
    correlations = (probes.T @ probes / 500 - torch.eye(4)).abs()
    assert (correlations < 5.0 / 500**0.5).all()


def test_a_probed_network_repeats_and_keeps_rows_apart(generator):
    network = build(ResidualMLP(width=8, depth=2, divergence="hutchinson", n_probes=3), 4)
    x, t = torch.randn(6, 4, dtype=torch.float64, generator=generator), torch.tensor(0.4, dtype=torch.float64)
    first = network.divergence(t, x)
    assert torch.equal(first, network.divergence(t, x))
    other = x.clone()
    other[0] = 50.0
    assert torch.equal(first[1:], network.divergence(t, other)[1:])
    expected = probed_divergence(network.forward, t, x, network.probes)[1]
    torch.testing.assert_close(first, expected, rtol=0, atol=0)


@pytest.mark.parametrize("recipe", [MLP(width=16), ResidualMLP(width=16, depth=2)], ids=repr)
def test_initialisation_uses_the_generator_alone(recipe):
    first, again, other = (
        recipe.build(3, torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_residual_blocks_add_to_what_is_there(generator):
    """Blocks that give c whatever comes in, between two identities: v = a(x + depth c) + g x + b."""
    network = ResidualMLP(width=3, depth=2).build(3, generator).double()
    x, c = (
        torch.randn(5, 3, dtype=torch.float64, generator=generator),
        torch.tensor([0.3, -1.0, 2.0]).double(),
    )
    g, b = torch.tensor([0.5, -0.2, 0.1]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for identity in (network.first, network.last):
            identity.weight.copy_(torch.eye(3))
        for layer in network.outer:
            layer.bias.copy_(c)
        network.affine_time.bias.copy_(torch.cat([b, g]))
    found = network(torch.tensor(0.3).double(), x)
    torch.testing.assert_close(found, nn.functional.silu(x + 2.0 * c) + g * x + b)


def test_a_residual_block_is_two_layers_with_the_time_between(generator):
    """v = W a(h + O a(I a(h) + s)) + g x + b with h = F x, written out; a is the activation everywhere."""
    network, act = build(ResidualMLP(width=7, depth=1, activation="silu"), 3), nn.functional.silu
    t, x = torch.tensor(0.3).double(), torch.randn(5, 3, dtype=torch.float64, generator=generator)
    features = network.time(t)
    b, g = network.affine_time(features).chunk(2, dim=1)
    h = network.first(x)
    h = h + network.outer[0](act(network.inner[0](act(h)) + network.shifts[0](features)))
    torch.testing.assert_close(network(t, x), network.last(act(h)) + g * x + b)


@pytest.mark.parametrize(
    "recipe", [MLP(width=8, context_depth=1), ResidualMLP(width=8)], ids=["mlp", "residual"]
)
def test_a_context_is_added_to_the_hidden_layer_of_the_time(recipe, generator):
    network = recipe.build(2, generator, n_context=3).double()
    shift = torch.randn(64, dtype=torch.float64, generator=generator)
    x, c = torch.randn(4, 2, dtype=torch.float64, generator=generator), torch.ones(4, 3).double()
    t = torch.tensor(0.3, dtype=torch.float64)
    with torch.no_grad():
        network.context.last.weight.zero_()
        network.context.last.bias.copy_(shift)
        found = network.given(c).value_and_divergence(t, x)
        network.time.hidden.bias.add_(shift)
    for actual, expected in zip(found, network.value_and_divergence(t, x), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("recipe", [MLP(width=256), ResidualMLP(width=256)], ids=["mlp", "residual"])
def test_initial_weights_hand_on_the_variance_and_the_field_is_small(recipe, generator):
    """Weights of hidden layers are uniform with variance 1 / n_in, biases of the first ones in (-1, 1)."""
    network = recipe.build(20, generator, n_context=30)
    context, time = network.context, network.time.hidden
    hidden = [*(layer.weight for layer in context.layers), context.last.weight, time.weight]
    biases = [layer.bias for layer in context.layers]
    if isinstance(recipe, MLP):
        (part,) = network.blocks
        hidden, biases = [*hidden, part.w1, part.w2], [*biases, part.time.bias[:256]]
        assert not part.time.bias[256:].any()
    else:
        hidden += [network.first.weight, *(layer.weight for layer in (*network.inner, *network.shifts))]
    for values, scale in [*((w, (3.0 / w.shape[1]) ** 0.5) for w in hidden), *((b, 1.0) for b in biases)]:
        values = values.detach().flatten().numpy()
        assert stats.kstest(values, stats.uniform(-scale, 2.0 * scale).cdf).pvalue > 1e-4
    x = torch.randn(500, 20, generator=generator)
    size = network(torch.tensor(0.5), x).std().item()
    assert 0.02 < size < 0.3  # of the paths to learn it is about 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (MLP(width=0), "MLP: width must be an integer >= 1, got 0."),
        (MLP(n_blocks=1.5), "MLP: n_blocks must be an integer >= 1, got 1.5."),
        (MLP(activation="relu"), "MLP: activation='relu' is not one of ['silu', 'softplus', 'tanh']."),
        (ResidualMLP(depth=0), "ResidualMLP: depth must be an integer >= 1, got 0."),
        (
            ResidualMLP(activation="relu"),
            "ResidualMLP: activation='relu' is not one of ['silu', 'softplus', 'tanh'].",
        ),
        (
            ResidualMLP(divergence="guess"),
            "divergence='guess' is not one of ['exact', 'hutchinson'].",
        ),
    ],
    ids=repr,
)
def test_parameters_that_cannot_be_used(recipe, message, generator):
    with pytest.raises(ValueError, match=r"^") as caught:
        recipe.build(2, generator)
    assert str(caught.value) == message


def test_an_unfinished_recipe_says_what_is_missing(generator):
    with pytest.raises(NotImplementedError, match=r"^Velocity must define build\(n_features, generator\)\.$"):
        Velocity().build(2, generator)


class WithDivergence(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, t, x):
        return self.network.value_and_divergence(t, x)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 1)], ids=["one time", "a time per row"])
def test_networks_in_a_stack_are_the_networks(shape, generator):
    networks = [build(MLP(width=6, n_blocks=2), 3, seed) for seed in (0, 1)]
    pairs = [WithDivergence(network) for network in networks]
    weights = [dict(pair.named_parameters()) for pair in pairs]
    stack = {name: torch.stack([w[name] for w in weights]) for name in weights[0]}
    t, x = times(shape, generator), torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    value, divergence = torch.func.functional_call(pairs[0], stack, (t, x))
    for i, network in enumerate(networks):
        expected = network.value_and_divergence(t[i], x[i])
        torch.testing.assert_close((value[i], divergence[i]), expected)


# -- the hand-written derivative -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("per_row", [False, True], ids=["one time", "a time per row"])
def test_gradient_of_the_block_is_the_numerical_one(activation, per_row, generator):
    n, d, h = 4, 3, 5

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(True)

    shifts = [draw(n if per_row else 1, h) for _ in range(4)]
    arguments = [draw(n, d), *shifts, draw(h, d), draw(h, h), draw(d, h), draw(h, h)]
    assert torch.autograd.gradcheck(lambda *a: block(activation, *a), arguments)


@pytest.mark.parametrize("only", [0, 1], ids=["value", "divergence"])
def test_gradient_of_one_output_alone(only, generator):
    network = MLP(width=8).build(3, generator).double()
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    def outcome(y):
        return network.value_and_divergence(torch.tensor(0.4, dtype=torch.float64), y)[only]

    assert torch.autograd.gradcheck(outcome, [x])


@pytest.mark.parametrize("only", [0, 1], ids=["value", "divergence"])
def test_gradient_of_one_output_alone_of_networks_in_a_stack(only, generator):
    """Is that of each network by itself."""

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(True)

    shifts = [draw(2, 1, 5) for _ in range(4)]
    arguments = [draw(2, 4, 3), *shifts, draw(2, 5, 3), draw(2, 5, 5), draw(2, 3, 5), draw(2, 5, 5)]

    def gradients(arguments):
        outcome = block("silu", *arguments)[only]
        return torch.autograd.grad(outcome.square().sum(), arguments, allow_unused=True)

    together = gradients(arguments)
    for i in range(2):
        alone = gradients([a[i].detach().requires_grad_(True) for a in arguments])
        for mine, wanted in zip(together, alone, strict=True):
            mine = mine if mine is None else mine[i]
            torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("d", range(1, 9))
def test_inner_sizes_of_products_are_even(d, generator, monkeypatch):
    """A column of zeros more where they are odd, and only there; the product is the same."""
    padded, plain = [], torch.nn.functional.pad
    monkeypatch.setattr(torch.nn.functional, "pad", lambda x, pad: padded.append(x) or plain(x, pad))
    for models in ((), (2,)):
        x, weight = (torch.randn(*models, n, d, dtype=torch.float64, generator=generator) for n in (4, 3))
        found = product(x, weight)
        assert len(padded) == 2 * (d % 2)
        torch.testing.assert_close(found, x @ weight.mT)
        padded.clear()


@pytest.fixture
def onednn(monkeypatch):
    """As on a processor of AMD; the products that oneDNN made are counted."""
    call, made = _products._onednn(), []
    assert (call is not None) == torch.backends.mkldnn.is_available()

    def counted(*arguments):
        made.append(arguments)
        return call(*arguments)

    monkeypatch.setattr(_products, "_BY_ONEDNN", call and counted)
    return made


SIZES = [(256, 30, 256), (256, 256, 43), (256, 256, 256), (100, 300, 64)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_by_onednn(sizes, onednn, generator):
    """And of transposed matrices, against the same in float64."""
    n, k, m = sizes
    a, b, c = (torch.randn(*shape, generator=generator) for shape in ((n, k), (k, m), (n, m)))
    with torch.no_grad():
        found = [matmul(a, b), matmul(a.mT.clone().mT, b.mT.clone().mT), product(a, b.mT)]
        added = add_matmul(c, a, b, beta=0.3, alpha=-2.0)
    assert len(onednn) == (4 if torch.backends.mkldnn.is_available() else 0)
    exact, bound = a.double() @ b.double(), 1e-6 * a.double().abs() @ b.double().abs()
    for value in found:
        assert ((value.double() - exact).abs() <= bound).all()
    assert ((added.double() - (0.3 * c.double() - 2.0 * exact)).abs() <= 2.0 * bound + 1e-6).all()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_row_of_a_product_does_not_see_the_others(sizes, onednn, generator):
    """Nor its place among them, to the bit."""
    n, k, m = sizes
    x, weight = torch.randn(n, k, generator=generator), torch.randn(m, k, generator=generator)
    order = torch.randperm(n, generator=generator)
    with torch.no_grad():
        found, moved = product(x, weight), product(x[order], weight)
        others = product(torch.cat([x[:1], torch.randn(n - 1, k, generator=generator)]), weight)
    assert torch.equal(moved, found[order])
    assert torch.equal(others[0], found[0])


def _draw_block(n, d, h, n_times, generator):
    """Arguments of a block: in this order x, four shifts and scales, three weights and the mixed one."""

    def draw(*shape, gain=1.0):
        return gain * torch.randn(*shape, generator=generator)

    shifts = [part for _ in range(2) for part in (draw(n_times, h), 1.0 + draw(n_times, h, gain=0.3))]
    w1, w2, w3 = draw(h, d, gain=d**-0.5), draw(h, h, gain=h**-0.5), draw(d, h, gain=h**-0.5)
    return [draw(n, d), *shifts, w1, w2, w3, w2 * (w1 @ w3).mT]


@pytest.mark.parametrize("d", [1, 2, 7, 20, 43])
@pytest.mark.parametrize(("n", "h"), [(256, 64), (512, 128), (256, 256)])
def test_scales_in_the_weights_and_tanh_in_the_products(n, h, d, onednn, generator):
    """One time for all rows: the value and divergence of the formula, and no row sees the others."""
    x, *rest = _draw_block(n, d, h, 1, generator)
    order = torch.randperm(n, generator=generator)
    with torch.no_grad():
        value, divergence = block("tanh", x, *rest)
        moved = block("tanh", x[order], *rest)
    assert sum(a[3] == "tanh" for a in onednn) == (4 if torch.backends.mkldnn.is_available() else 0)
    assert torch.equal(moved[0], value[order])
    assert torch.equal(moved[1], divergence[order])
    b1, s1, b2, s2, w1, w2, w3, _ = (a.double() for a in rest)

    def formula(row):
        return w3 @ torch.tanh(s2[0] * (w2 @ torch.tanh(s1[0] * (w1 @ row) + b1[0])) + b2[0])

    few = x[:20].double()
    traces = [torch.func.jacrev(formula)(row).trace() for row in few]
    torch.testing.assert_close(value[:20].double(), torch.func.vmap(formula)(few), rtol=0, atol=1e-5)
    torch.testing.assert_close(divergence[:20].double(), torch.stack(traces), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "n", "h", "n_times"),
    [("silu", 256, 128, 1), ("tanh", 256, 128, 256), ("tanh", 128, 256, 1)],
)
def test_other_blocks_take_the_scales_row_by_row(activation, n, h, n_times, onednn, generator):
    """Of other activations, where every row has a time of its own, where rows are few."""
    with torch.no_grad():
        block(activation, *_draw_block(n, 20, h, n_times, generator))
    assert all(a[3] == "none" for a in onednn)
    assert bool(onednn) == torch.backends.mkldnn.is_available()


def test_small_products_and_those_in_float64_are_left_to_torch(onednn, generator):
    single, many = torch.randn(64, 64, generator=generator), torch.randn(3, 256, 256, generator=generator)
    for a in (single, many, many[0].double()):
        assert torch.equal(matmul(a, a), a @ a)
        added, exact = (
            add_matmul(a, a, a, beta=2.0, alpha=3.0),
            2.0 * a.double() + 3.0 * a.double() @ a.double(),
        )
        torch.testing.assert_close(added.double(), exact, rtol=1e-4, atol=1e-3)
    assert not onednn


def test_matrices_with_gaps_are_left_to_torch(onednn, generator):
    """OneDNN has only a slow program for some of them: two seconds for one product."""
    wide = torch.randn(256, 512, generator=generator)
    dense, gaps, alike = wide[:, :256].clone(), wide[:, ::2], torch.ones(()).expand(256, 256)
    for other in (gaps, gaps.mT, alike, wide[:, :256]):
        for a, b in ((dense, other), (other, dense)):
            torch.testing.assert_close(matmul(a, b), a @ b)
    assert not onednn


def test_only_wanted_derivatives_are_computed(onednn, generator):
    a, b = (torch.randn(128, 128, generator=generator) for _ in range(2))
    for wanted in ([a], [b], [a, b]):
        for x in (a, b):
            x.requires_grad_(any(x is w for w in wanted))
        (matmul(a, b) ** 2).sum().backward()
        made = len(wanted) + 1 if torch.backends.mkldnn.is_available() else 0
        assert len(onednn) == made
        onednn.clear()


def test_derivatives_of_products_by_onednn(onednn, generator):
    """First and second derivatives in both factors, against those of torch's product in float64."""
    a, b, g = (torch.randn(128, 128, generator=generator, requires_grad=True) for _ in range(3))

    def derivatives(multiply, a, b, g):
        first = torch.autograd.grad((multiply(a, b).sin() * g).sum(), [a, b], create_graph=True)
        second = torch.autograd.grad(sum(f.square().sum() for f in first), [a, b, g])
        return [*first, *second]

    found = derivatives(matmul, a, b, g)
    made = len(onednn)
    wanted = derivatives(torch.matmul, *(x.detach().double().requires_grad_(True) for x in (a, b, g)))
    for mine, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())
    assert made == (9 if torch.backends.mkldnn.is_available() else 0)


def test_transformations_see_through_products(onednn, generator):
    """Forward mode, with and without torch.func, and vmap: oneDNN's results would be constants to them."""
    x, tangent, weight = (torch.randn(128, 128, generator=generator) for _ in range(3))
    with torch.no_grad():
        _, pushed = torch.func.jvp(lambda y: product(y, weight), (x,), (tangent,))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, tangent)
            also = torch.autograd.forward_ad.unpack_dual(product(dual, weight)).tangent
        mapped = torch.func.vmap(lambda y: product(y, weight))(torch.stack([x, tangent]))
    pulled = torch.func.grad(lambda y: product(y, weight).sum())(x)
    assert not onednn
    x.requires_grad_(True)
    batch = torch.stack([torch.ones(128, 128), tangent])
    (batched,) = torch.autograd.grad(product(x, weight), x, batch, is_grads_batched=True)
    assert len(onednn) == (1 if torch.backends.mkldnn.is_available() else 0)  # the value alone
    torch.testing.assert_close(batched, batch @ weight)
    for value in (pushed, also, mapped[1]):
        torch.testing.assert_close(value, tangent @ weight.T)
    torch.testing.assert_close(pulled, weight.sum(0).expand(128, 128))


@pytest.mark.parametrize("text", ["AuthenticAMD", "GenuineIntel"])
def test_the_maker_of_the_processor(text, monkeypatch, tmp_path):
    """From where Linux says it, or from what other systems say."""
    lines = f"processor\t: 0\nvendor_id\t: {text}\nmodel name\t: any\n"
    (tmp_path / "cpuinfo").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(_products, "_CPUINFO", tmp_path / "cpuinfo")
    assert text in _products._vendor()
    monkeypatch.setattr(_products, "_CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(_products.platform, "processor", lambda: f"Family 25, {text}")
    assert text in _products._vendor()
    for capability, wide in {"AVX2": False, "AVX512": torch.backends.mkl.is_available()}.items():
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert _products._mkl_is_slow() == (wide and text == "AuthenticAMD")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_to_the_rounding_of_one(dtype, generator):
    z = torch.cat([torch.linspace(-20.0, 20.0, 4001), torch.linspace(-1e-3, 1e-3, 101)]).to(dtype)
    z = torch.cat([z, torch.tensor([-1e4, 1e4], dtype=dtype)])
    value, slope = ACTIVATIONS["tanh"](z)
    exact, eps = torch.tanh(z.double()), torch.finfo(dtype).eps
    assert (value.double() - exact).abs().max() <= 4.0 * eps
    assert (slope.double() - (1.0 - exact**2)).abs().max() <= 8.0 * eps
    assert value.abs().max() <= 1.0


def test_held_weights_give_the_same_field(generator):
    network = MLP(width=8, n_blocks=2).build(3, generator)
    t, x = torch.tensor(0.3), torch.randn(5, 3, generator=generator)
    for held, plain in zip(
        velocity_and_divergence(hold_weights(network), t, x),
        velocity_and_divergence(network, t, x),
        strict=True,
    ):
        assert torch.equal(held, plain)
    assert torch.equal(hold_weights(network)(t, x), network(t, x))


def test_held_weights_are_prepared_once(generator, monkeypatch):
    """However often the field is evaluated, at whatever context and times."""
    network, calls = MLP(width=8).build(3, generator, n_context=2), []
    prepare = network._held
    monkeypatch.setattr(network, "_held", lambda: calls.append(1) or prepare())
    held, x, c = hold_weights(network), torch.zeros(5, 3), torch.zeros(5, 2)
    for velocity in (held, held.given(c), held.hold_weights([torch.tensor(0.3)])):
        velocity.value_and_divergence(torch.tensor(0.3), x)
        velocity.value_and_divergence(torch.tensor(0.4), x)
    assert len(calls) == 1
    network.given(c).value_and_divergence(torch.tensor(0.3), x)  # which holds nothing
    assert len(calls) == 2


@pytest.mark.parametrize("models", [(), (3,)], ids=["one", "three at once"])
@pytest.mark.parametrize("rows_of_t", [1, 5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_block_without_gradients_is_the_same_to_the_bit(activation, rows_of_t, models, generator):
    def draw(*shape):
        return torch.randn(*models, *shape, generator=generator, dtype=torch.float64)

    at = [draw(rows_of_t, 8) for _ in range(4)]
    arguments = [draw(5, 3), *at, draw(8, 3), draw(8, 8), draw(3, 8), draw(8, 8)]
    before = [a.clone() for a in arguments]
    with torch.no_grad():
        found = block(activation, *arguments)
    for mine, wanted in zip(found, block(activation, *arguments), strict=True):
        assert torch.equal(mine, wanted)
    assert all(map(torch.equal, arguments, before))


def test_a_float32_copy_leaves_numbers_that_are_no_floats(generator):
    network = MLP(width=8).build(3, generator).double()
    network.register_buffer("seen", torch.tensor(2**30 + 1))
    copied = in_single(network).network
    assert copied.seen == 2**30 + 1
    assert (copied.blocks[0].w1.dtype, network.blocks[0].w1.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize("single", [False, True])
def test_times_that_were_announced_are_computed_once(single, generator):
    """All of them together, and found by the tensor itself; another tensor of the same value is not."""
    network = MLP(width=8).build(3, generator)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.5, generator=generator)
    dtype = torch.float64 if single else torch.float32
    x = torch.randn(5, 3, generator=generator, dtype=dtype)
    times = list(torch.tensor([0.2, 0.7, 0.4], dtype=dtype))
    held, calls = in_single(network) if single else hold_weights(network), []
    (held.held.network if single else network).time.register_forward_hook(lambda *_: calls.append(1))
    held = held.at_times(times)
    assert len(calls) == 1
    for t in (*times[::-1], *times):
        found = held.value_and_divergence(t, x)
        for mine, direct in zip(found, network.value_and_divergence(t.float(), x.float()), strict=True):
            torch.testing.assert_close(mine, direct, rtol=1e-5, atol=1e-6)
        assert torch.equal(held(t, x), found[0])
    assert len(calls) == 1 + 6  # the hook also sees the direct ones
    held(times[0].clone(), x)
    assert len(calls) == 2 + 6


def test_rows_with_a_context_each_hold_no_times(generator):
    """Their features differ from row to row: those of all times together would take a grid's memory."""
    network = MLP(width=8).build(3, generator, n_context=2)
    held = hold_weights(network).given(torch.randn(5, 2, generator=generator))
    assert held.at_times([torch.tensor(0.5)]) is held


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("recipe", [MLP(width=8, n_blocks=2), ResidualMLP(width=8, depth=2)], ids=str)
def test_in_single_precision_a_field_is_that_of_its_float32_copy(recipe, with_context, generator):
    network = recipe.build(3, generator, n_context=2 if with_context else None).double()
    t = torch.tensor(0.3, dtype=torch.float64)
    x, c = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    context, context32 = (c, c.float()) if with_context else (None, None)
    single, copied = in_single(network), copy.deepcopy(network).float()
    assert next(network.parameters()).dtype == torch.float64  # untouched
    found = given(single, context).value_and_divergence(t, x)
    wanted = given(copied, context32).value_and_divergence(t.float(), x.float())
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_networks_that_hold_nothing_are_left_in_their_precision():
    assert in_single(ExactVelocity("linear", NORMAL, BENT)) is None


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("recipe", [MLP(width=8, n_blocks=2), ResidualMLP(width=8, depth=2)], ids=str)
def test_what_is_held_of_a_time_is_that_of_this_time(recipe, with_context, generator):
    """Values and the gradients of the weights, at times in no order and at one that was not announced."""
    x, c = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (3, 2))
    network = recipe.build(3, generator, n_context=2 if with_context else None).double()
    for weight in network.parameters():  # those of t in the last layer start at zero
        nn.init.normal_(weight, std=0.5, generator=generator)
    *times, other = torch.tensor([0.9, 0.1, 0.5, 0.3], dtype=torch.float64)
    plain = given(network, c) if with_context else network
    held = hold_weights(plain, times)

    def outcome(v):
        pairs = [velocity_and_divergence(v, t, x) for t in (*times, other)]
        total = sum((k + 1) * (value.sum() + divergence.sum()) for k, (value, divergence) in enumerate(pairs))
        gradients = torch.autograd.grad(total, network.parameters(), allow_unused=True, retain_graph=True)
        return *itertools.chain(*pairs), *(g for g in gradients if g is not None)

    for mine, direct in zip(outcome(held), outcome(plain), strict=True):
        torch.testing.assert_close(mine, direct, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(held(times[1], x), plain(times[1], x), rtol=1e-10, atol=1e-12)
