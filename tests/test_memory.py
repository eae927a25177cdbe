"""Memory: blocks that do not fit, rows that are never copied whole, no growth with the number of rows."""

import gc
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sklearn
import torch
from conftest import quick

from siflow_sk import _likelihood, _memory, _tensors
from siflow_sk.bases import StandardNormal
from siflow_sk.benchmarks._timing import peak_bytes
from siflow_sk.solvers import RungeKutta
from siflow_sk.velocities import MLP, Average, ResidualMLP, Velocity

# -- a device that runs out of memory ----------------------------------------------------------------------


class Hungry(torch.nn.Module):
    """A network that runs out of memory on more than ``limit`` rows, as CUDA does."""

    def __init__(self, network, limit):
        super().__init__()
        self.network, self.limit, self.sizes = network, limit, []

    def value_and_divergence(self, t, x):
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} rows.")
        return self.network.value_and_divergence(t, x)

    def forward(self, t, x):
        return self.value_and_divergence(t, x)[0]


@pytest.fixture
def hungry(moons_flow):
    """The fitted flow behind a network that takes only some rows at a time."""

    def make(limit):
        flow = quick()
        flow.__dict__.update(vars(moons_flow))
        flow.velocity_ = Hungry(moons_flow.velocity_, limit)
        return flow

    return make


@pytest.mark.parametrize("limit", [511, 64, 1])
@pytest.mark.parametrize("method", ["score_samples", "transform", "inverse_transform"])
def test_fault_54_out_of_memory_halves_the_block(method, limit, hungry, moons):
    X = np.tile(moons, (2, 1))[:600] if limit > 1 else moons[:20]
    flow = hungry(limit)
    found = getattr(flow, method)(X)
    np.testing.assert_allclose(found, getattr(hungry(1000), method)(X), rtol=1e-9, atol=1e-9)
    sizes = flow.velocity_.sizes
    assert sizes[0] == _likelihood.BLOCK["cpu"]
    # each size that did not fit was tried once, and what fits is kept
    assert [n for n in sizes if n > limit] == [512 // 2**k for k in range(10) if 512 // 2**k > limit]
    assert set(sizes[-10:]) == {max(512 // 2**k for k in range(10) if 512 // 2**k <= limit)}


def test_fault_54_not_even_one_row_fits(hungry, moons):
    with pytest.raises(
        MemoryError, match=r"a single row of 2 columns does not fit into the memory of cpu; take"
    ):
        hungry(0).score_samples(moons)


def test_fault_54_other_errors_are_not_swallowed():
    def broken(x):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        _likelihood.in_blocks(broken, torch.zeros(3, 2))


class Fed(Velocity):
    """Out of memory in training once ``full`` is set."""

    full = False

    def __init__(self, width=8):
        self.width = width

    def build(self, n_features, generator):
        network = MLP(width=self.width).build(n_features, generator)
        network.register_forward_pre_hook(self.check)
        return network

    @staticmethod
    def check(module, arguments):
        if Fed.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_fault_55_out_of_memory_in_training(moons, monkeypatch):
    """The advice, and the model of the fit before."""
    flow = quick(velocity=Fed(), batch_size=100).fit(moons)
    before = flow.score_samples(moons)
    monkeypatch.setattr(Fed, "full", True)
    with pytest.raises(
        RuntimeError,
        match=r"cpu ran out of memory .* 300 rows of 2 columns in batches of 100; lower batch_size",
    ):
        flow.fit(moons)
    monkeypatch.setattr(Fed, "full", False)
    np.testing.assert_array_equal(flow.score_samples(moons), before)


# -- blocks that fit into the memory that may be used --------------------------------------------------------


def test_a_small_working_memory_is_honoured():
    """Peak of resident memory; scikit-learn's default of 1 GiB leaves blocks as they are."""
    network = MLP(width=8).build(2048, torch.Generator().manual_seed(0)).double().requires_grad_(False)
    x = torch.randn(1024, 2048, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base, solver, answers = StandardNormal(), RungeKutta("midpoint", 2), {}

    def score():
        answers[limit] = _likelihood.log_density(network, base, solver, x)[0]

    for limit, low, high in [(1024, 16, 64), (4, 0, 6)]:
        with sklearn.config_context(working_memory=limit):
            score()
            assert low * 2**20 < peak_bytes(score) < high * 2**20
    torch.testing.assert_close(answers[4], answers[1024], rtol=1e-9, atol=1e-9)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Files by which a system and a container tell what is free."""
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemFree: 10 kB\nMemAvailable:  40000 kB\n")
    monkeypatch.setattr(_memory, "_SYSTEM", tmp_path / "meminfo")
    groups = [(tmp_path / f"v{i}", *names) for i, (_, *names) in enumerate(_memory._GROUPS)]
    monkeypatch.setattr(_memory, "_GROUPS", groups)
    for folder, limit, used, cached in groups:
        folder.mkdir()
        (folder / limit).write_text("max\n")
        (folder / used).write_text("900000\n")
        (folder / "memory.stat").write_text(f"anon 7\n{cached} 100000\nfile_dirty 3\n")
    return groups


@pytest.mark.parametrize("version", [0, 1])
def test_half_of_what_the_machine_leaves_is_used(version, machine):
    cpu = torch.device("cpu")
    assert _memory.usable_bytes(cpu) == 0.5 * 40_000 * 1024
    folder, limit, used, _ = machine[version]
    (folder / limit).write_text("1000000\n")
    assert _memory.usable_bytes(cpu) == 0.5 * (1_000_000 - 900_000 + 100_000)
    (folder / used).write_text("2000000\n")
    assert _memory.usable_bytes(cpu) == 0
    assert _likelihood.block_size(torch.zeros(1, 2), None) == 1
    (folder / limit).unlink()
    with sklearn.config_context(working_memory=1):
        assert _memory.usable_bytes(cpu) == 2**20


def test_without_those_files_scikit_learns_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(_memory, "_SYSTEM", tmp_path / "none")
    monkeypatch.setattr(_memory, "_GROUPS", [])
    assert _memory.usable_bytes(torch.device("cpu")) == 2**30


def test_wide_networks_and_exact_divergences_get_smaller_blocks():
    x, generator = torch.zeros(1, 20, dtype=torch.float64), torch.Generator().manual_seed(0)
    small, narrow, wide = (MLP(width=w).build(20, generator) for w in (128, 256, 2048))
    deep, probed = (
        ResidualMLP(width=256, depth=1, divergence=kind, n_probes=4).build(20, generator)
        for kind in ("exact", "hutchinson")
    )
    with sklearn.config_context(working_memory=16):
        sizes = [_likelihood.block_size(x, v) for v in (small, narrow, wide, deep, probed, None)]
        assert sizes == [512, 256, 32, 16, 64, 512]
        assert _likelihood.block_size(x, narrow.hold_weights()) == 256
        assert _likelihood.block_size(x, Average([wide, wide]).hold_weights()) == 32
        assert _likelihood.block_size(x, wide.hold_weights()) == 32
        assert _likelihood.block_size(x.float(), wide) == 64
    assert [_likelihood.block_size(x, v) for v in (small, narrow)] == [512, 256]


@pytest.mark.parametrize(("width", "n"), [(128, 1200), (256, 1200), (128, 3)])
def test_rows_that_are_solved_again_come_in_blocks_of_32(width, n):
    network, sizes = MLP(width=width).build(2, torch.Generator().manual_seed(0)), set()
    _likelihood.in_blocks(lambda x: sizes.add(len(x)) or (x,), torch.zeros(n, 2), velocity=network, few=True)
    assert sizes == {32}


# -- more rows than training draws -------------------------------------------------------------------------


def test_thinning_keeps_or_drops_equal_rows_together(moons):
    X = np.concatenate([moons, moons[:50], moons[:20]])
    kept, weight = _tensors.thin(X, np.ones(len(X)), 100, 0)
    distinct, counts = np.unique(kept, axis=0, return_counts=True)
    assert 60 < len(distinct) <= 100
    for row, count in zip(distinct, counts, strict=True):
        assert count == (X == row).all(axis=1).sum()
    assert len(weight) == len(kept)
    order = np.random.default_rng(0).permutation(len(X))
    again, _ = _tensors.thin(X[order], np.ones(len(X)), 100, 0)
    np.testing.assert_array_equal(np.unique(again, axis=0), distinct)
    other, _ = _tensors.thin(X, np.ones(len(X)), 100, 1)
    assert not np.array_equal(np.unique(other, axis=0), distinct)
    assert _tensors.thin(X, weight, len(X), 0)[0] is X


def test_thinning_is_a_fair_draw():
    """Kept values of 40,000 follow the uniform law (Kolmogorov-Smirnov, level 1e-6), zeros have one sign."""
    from scipy.stats import kstest

    X = np.linspace(0.0, 1.0, 40_000)[:, None]
    kept, _ = _tensors.thin(X, np.ones(len(X)), 4000, 3)
    assert len(kept) == 4000
    assert kstest(kept[:, 0], "uniform").pvalue > 1e-6
    a, b = np.zeros((1, 3)), -np.zeros((1, 3))
    assert _tensors._row_hashes(a, 0) == _tensors._row_hashes(b, 0)
    swapped = _tensors._row_hashes(np.array([[1.0, 2.0], [2.0, 1.0]]), 0)
    assert swapped[0] != swapped[1]


def test_rows_of_weight_zero_are_not_drawn(moons):
    weight = np.zeros(300)
    weight[:40] = 2.0
    kept, kept_weight = _tensors.thin(moons, weight, 100, 0)
    assert len(kept) == 40
    assert (kept_weight == 2.0).all()


def test_a_thinned_fit_still_takes_weights_for_repetition(moons, monkeypatch):
    monkeypatch.setattr(_tensors, "MOST_ROWS", 150)
    small = {"max_iter": 1, "batch_size": 100, "polish": 5}
    weight = np.random.default_rng(0).integers(1, 3, 300)
    weighted = quick(**small).fit(moons, sample_weight=weight)
    repeated = quick(**small).fit(np.repeat(moons, weight, axis=0))
    assert np.isfinite(weighted.score(moons))
    # the draws are of about 150 rows each, of other multiplicities: alike, not equal
    assert abs(weighted.score(moons) - repeated.score(moons)) < 1.0


# -- memory-mapped tables ----------------------------------------------------------------------------------

SCRIPT = """
import gc, json, sys, threading, time, tracemalloc
import numpy as np
from siflow_sk import InterpolantFlow, _tensors
from siflow_sk.benchmarks._timing import return_free_memory
from siflow_sk.solvers import RungeKutta
from siflow_sk.velocities import MLP

def anonymous():  # resident memory that no file stands behind; 0 where the system does not tell
    if not sys.platform.startswith("linux"):
        return 0
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])

def growth(function):
    gc.collect()
    return_free_memory()
    peak, stop, before = [0], threading.Event(), anonymous()
    def watch():
        while not stop.wait(0.01):
            peak[0] = max(peak[0], anonymous() - before)
    thread = threading.Thread(target=watch)
    thread.start()
    tracemalloc.start()
    result = function()
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stop.set()
    thread.join()
    return result, traced, peak[0]

path, n, d, copied = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "copy"
X = np.memmap(path, dtype=np.float32, mode="r", shape=(n, d))
if copied:
    table = X
    class Copying(InterpolantFlow):
        def score_samples(self, X, **more):
            return super().score_samples(np.array(X), **more)
    InterpolantFlow = Copying
_tensors.MOST_ROWS = 1500
small = {"max_iter": 3, "polish": 2, "batch_size": 64, "velocity": MLP(width=4)}
small["solver"] = RungeKutta("euler", 1)  # what is measured does not depend on the work
flow = InterpolantFlow(**small, preprocessor="standardize", random_state=0)
flow.fit(np.array(X[:1000]))  # what is loaded at first use
flow.score_samples(X[:1000])
_, traced_fit, anonymous_fit = growth(lambda: None if copied else flow.fit(X))
scores, traced_score, anonymous_score = growth(lambda: flow.score_samples(X))
print(json.dumps({
    "traced_fit": traced_fit, "anonymous_fit": anonymous_fit, "traced_score": traced_score,
    "anonymous_score": anonymous_score, "finite": bool(np.isfinite(scores).all()), "rows": len(scores),
}))
"""


def in_a_process(path, n, d, how="map", timeout=300):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), path, str(n), str(d), how],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def written(path, n, d):
    """A table of random numbers on disk."""
    X = np.memmap(path, dtype=np.float32, mode="w+", shape=(n, d))
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        X[start : start + 10_000] = rng.standard_normal((10_000, d), dtype=np.float32)
    X.flush()
    del X
    gc.collect()
    return str(path), n, d


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """100,000 rows of 128 columns, 51 MB on disk."""
    return written(tmp_path_factory.mktemp("table") / "table.f32", 100_000, 128)


def test_a_memory_mapped_table_is_fitted_and_scored_without_a_copy(table):
    path, n, d = table
    size = 4 * n * d
    found = in_a_process(path, n, d)
    assert found["finite"]
    assert found["rows"] == n
    for name in ("traced_fit", "anonymous_fit", "traced_score", "anonymous_score"):
        assert found[name] < 0.5 * size, (name, found)
    copied = in_a_process(path, n, d, "copy")  # a copy would be seen
    assert copied["traced_score"] > size
    if sys.platform.startswith("linux"):
        assert copied["anonymous_score"] > 0.5 * size


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_million_rows_are_fitted_and_scored_without_a_copy(tmp_path, record_property):
    """640 MB on disk.  Three numbers a row stand beside them in ``fit``, the answer in ``score_samples``."""
    path, n, d = written(tmp_path / "table.f32", 10_000_000, 16)
    found = in_a_process(path, n, d, timeout=1700)
    for name, value in found.items():
        record_property(name, value)
    assert found["finite"]
    assert found["rows"] == n
    for name in ("traced_fit", "anonymous_fit", "traced_score", "anonymous_score"):
        assert found[name] < 0.6 * 4 * n * d, (name, found)
