"""Agreement of CPU and CUDA; runs where a CUDA device is."""

import pickle

import numpy as np
import pytest
import torch

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def fitted():
    X = np.random.default_rng(0).normal(size=(400, 3)) ** 3
    flow = InterpolantFlow(max_iter=50, polish=20, velocity=MLP(width=32), random_state=0, device="cuda")
    return flow.fit(X), X


def test_a_fit_on_cuda_says_so(fitted):
    assert fitted[0].device_ == "cuda"
    assert next(fitted[0].velocity_.parameters()).is_cuda


def test_a_pickle_wakes_on_the_cpu_with_the_same_densities(fitted):
    flow, X = fitted
    woken = pickle.loads(pickle.dumps(flow))
    assert woken.device_ == "cpu"
    np.testing.assert_allclose(woken.score_samples(X), flow.score_samples(X), rtol=1e-8, atol=1e-8)


def test_samples_and_latent_points_round_trip(fitted):
    flow, X = fitted
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(X)), X, rtol=1e-2, atol=1e-2)
    assert flow.sample(10, random_state=0).shape == (10, 3)
