"""Read by pytest before any test module: environment variables, one guard, small shared tables."""

import os

# scikit-learn's array API checks need it, and SciPy reads it once, at import
os.environ["SCIPY_ARRAY_API"] = "1"
# pictures are drawn without a screen
os.environ["MPLBACKEND"] = "Agg"

import gc
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP


def pytest_configure(config):
    """torch's own forward mode still calls torch.jit.script, once per process."""
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def pytest_collection_finish():
    """What is loaded and collected by now stays: the garbage collector need not walk through it again."""
    gc.collect()
    gc.freeze()


def global_state():
    """What no call of the library may change, as name -> comparable value."""
    legacy = np.random.get_state()  # noqa: NPY002
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's global generator": (legacy[1].tobytes(), legacy[2:]),
        "random's global generator": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "NumPy's error handling": np.geterr(),
    }


@pytest.fixture(autouse=True)
def _global_state_unchanged():
    before = global_state()
    yield
    after = global_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test left a change in: {', '.join(changed)}"


@pytest.fixture
def generator():
    """A private generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def moons():
    """300 rows in two columns, read-only."""
    X, _ = make_moons(300, noise=0.1, random_state=0)
    X.setflags(write=False)
    return X


def quick(**parameters):
    """An InterpolantFlow that fits in well under a second."""
    settings = {"max_iter": 20, "polish": 10, "velocity": MLP(width=32), "random_state": 0}
    return InterpolantFlow(**{**settings, **parameters})


@pytest.fixture(scope="session")
def moons_flow(moons):
    """A quick flow fitted to ``moons``; tests must not change it."""
    return quick().fit(moons)
