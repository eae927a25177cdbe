"""Threads, processes and forks give what one thread gives, to the bit, and nothing hangs."""

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from conftest import global_state, quick
from sklearn.base import clone

from siflow_sk.solvers import RungeKutta
from siflow_sk.velocities import MLP, ResidualMLP

SMALL = {"max_iter": 8, "polish": 4, "velocity": MLP(width=16)}


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads inside a product may change how it is rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fitted(seed, X):
    return quick(**SMALL, random_state=seed).fit(X)


def answers(flow, X):
    return flow.score_samples(X), flow.transform(X), flow.sample(20, random_state=3)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fault_69_threads_fit_clones(moons):
    """Six clones in four threads, each equal to the bit to its sequential twin."""
    flow = quick(**SMALL)
    clones = [clone(flow).set_params(random_state=i % 3) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda f: f.fit(moons), clones))
    expected = [answers(fitted(seed, moons), moons) for seed in range(3)]
    for i, f in enumerate(clones):
        same(answers(f, moons), expected[i % 3])


def test_fault_69_threads_share_one_model(moons_flow, moons):
    expected = answers(moons_flow, moons)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: answers(moons_flow, moons), range(8)):
            same(found, expected)


def test_fault_69_threads_score_while_another_fits(moons_flow, moons):
    """A fit next door switches gradients on in its own thread alone."""
    expected = moons_flow.score_samples(moons)
    with ThreadPoolExecutor(2) as pool:
        fit = pool.submit(fitted, 0, moons)
        found = [moons_flow.score_samples(moons) for _ in range(10)]
        fit.result()
    for scores in found:
        np.testing.assert_array_equal(scores, expected)


def test_fault_69_threads_differentiate_forwards(moons):
    """torch counts the levels of forward mode for the whole process, not for each thread."""
    flow = quick(
        velocity=ResidualMLP(width=8, depth=1), max_iter=2, polish=0, solver=RungeKutta("euler", 4)
    ).fit(moons)

    def found(_):
        return flow.score_samples(moons[:20]), flow.divergence(0.5, moons[:20])

    expected = found(0)
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(found, range(8)):
            same(values, expected)


def test_fault_70_threads_fit_the_same_object(moons):
    """The last commit wins: what is left answers like one of the fits, never like a mixture."""
    tables = [moons, moons * 3.0 + 1.0]
    expected = [quick(**SMALL).fit(table).score_samples(moons) for table in tables]
    flow = quick(**SMALL)
    gate = threading.Barrier(2)

    def fit(table):
        gate.wait()
        flow.fit(table)

    for _ in range(4):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(fit, tables))
        scores = flow.score_samples(moons)
        assert any(np.array_equal(scores, e) for e in expected)


def test_fault_68_processes_fit_clones(moons):
    """loky's workers find to the bit what this process finds, on one torch thread each."""
    seeds = [0, 1, 2]
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(in_a_worker)(seed, moons) for seed in seeds)
    for seed, (result, threads) in zip(seeds, found, strict=True):
        same(result, answers(fitted(seed, moons), moons))
        assert threads == 1


def in_a_worker(seed, X):
    return answers(fitted(seed, X), X), torch.get_num_threads()


DASK = """
import joblib, torch
torch.set_num_threads(1)
from dask.distributed import Client, LocalCluster
from sklearn.datasets import make_moons
from test_concurrency import answers, fitted, in_a_worker, same
X, _ = make_moons(300, noise=0.1, random_state=0)
with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
    with joblib.parallel_config("dask"):
        found = joblib.Parallel()(joblib.delayed(in_a_worker)(seed, X) for seed in (0, 1))
for seed, (result, threads) in enumerate(found):
    same(result, answers(fitted(seed, X), X))
    assert threads == 1
print("the same")
"""


def test_fault_68_workers_of_dask_fit_clones():
    """A cluster of one process; what comes back from it is to the bit what this one finds."""
    here = os.path.dirname(os.path.abspath(__file__))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(DASK)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path]), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["the", "same"]


FORK = """
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(4)
a = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
(a @ a).sum()  # the thread pool is there
sys.path.insert(0, sys.argv[1])
from conftest import quick
from sklearn.datasets import make_moons
X, _ = make_moons(300, noise=0.1, random_state=0)
flow = quick().fit(X)
torch.set_num_threads(1)
expected = flow.score_samples(X), quick(max_iter=3, polish=1).fit(X).score_samples(X)
torch.set_num_threads(4)
for _ in range(2):
    flow.score_samples(X)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs is ended, and the parent sees it
        ok = torch.get_num_threads() == 1
        ok = ok and np.array_equal(flow.score_samples(X), expected[0])
        ok = ok and np.array_equal(quick(max_iter=3, polish=1).fit(X).score_samples(X), expected[1])
        os._exit(0 if ok else 3)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


def test_fault_67_a_fork_after_use(tmp_path):
    """Children of a process whose torch threads have run: no hang, the same numbers on one thread."""
    here = os.path.dirname(os.path.abspath(__file__))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), here],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["0", "0"]


RANK = """
import sys
import numpy as np, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from conftest import quick
dist.init_process_group("gloo")
rank = dist.get_rank()
X = np.random.default_rng(rank).normal(size=(60, 2))
flow = quick(max_iter=3, polish=1).fit(X)
print(f"rank {rank} scores {flow.score(X)!r}", flush=True)
dist.barrier()
if rank == 1:
    flow.fit(np.ones((60, 2)))
dist.barrier()  # rank 0 waits for one that is gone
"""


@pytest.mark.slow
def test_fault_77_a_rank_dies_or_has_other_data(tmp_path):
    """Every rank fits a model of its own, the same as outside of the job; the job ends with the traceback."""
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    here = os.path.dirname(os.path.abspath(__file__))
    job = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), here]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", *job],
        capture_output=True,
        text=True,
        timeout=300,  # gloo alone would wait for half an hour
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 1
    assert "ValueError: all samples are identical" in run.stderr
    for rank in range(2):
        X = np.random.default_rng(rank).normal(size=(60, 2))
        alone = quick(max_iter=3, polish=1).fit(X).score(X)
        assert f"rank {rank} scores {alone!r}" in run.stdout


def test_the_guard_of_the_suite_sees_a_change():
    before = global_state()
    state = torch.get_rng_state()
    torch.rand(1)
    assert global_state() != before
    torch.set_rng_state(state)
    assert global_state() == before
    with torch.no_grad():
        assert global_state() != before
    with np.errstate(over="raise"):
        assert global_state() != before
