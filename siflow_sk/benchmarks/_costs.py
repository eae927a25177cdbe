"""What one evaluation costs, and how much memory scoring takes."""

import json
import os
import statistics
import subprocess
import sys
import time

import torch

from ..velocities import MLP, velocity_and_divergence

DIMENSIONS = (6, 18, 43, 63, 128)
DTYPES = ("float32", "float64")
MEMORY_ROWS = (10_000, 100_000, 1_000_000)


def autograd_trace(v, t, x):
    """Velocity and divergence by d reverse passes, as it is done for a network without a closed form."""
    x = x.detach().requires_grad_(True)
    value = v(t, x)
    trace = torch.zeros_like(value[:, 0])
    d = x.shape[1]
    for j in range(d):
        (row,) = torch.autograd.grad(value[:, j].sum(), x, retain_graph=j + 1 < d)
        trace = trace + row[:, j]
    return value.detach(), trace


def divergence_cost(n_features, dtype, n_rows=2048, width=256, repeats=15, trace_repeats=3):
    """Cost of v and div v, and of the autograd trace, in forward passes of the same network on the CPU.

    Every repetition times the forward pass beside the other and makes one ratio; the medians of the ratios
    are returned, so that a busy machine disturbs both sides alike.

    Returns
    -------
    result : dict
        Milliseconds and ratios, with the smallest and the largest ratio, and the largest difference between
        the two divergences.
    """
    dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    network = MLP(width=width).build(n_features, generator).to(dtype).requires_grad_(False)
    x = torch.randn(n_rows, n_features, generator=generator).to(dtype)
    t = torch.tensor(0.5, dtype=dtype)

    def forward():
        with torch.no_grad():
            return network(t, x)

    def closed_form():
        with torch.no_grad():
            return velocity_and_divergence(network, t, x)

    def trace():
        return autograd_trace(network, t, x)

    difference = (closed_form()[1] - trace()[1]).abs().max().item()
    calls = _calls(forward)
    both = [(_seconds(forward, calls), _seconds(closed_form, calls)) for _ in range(repeats)]
    slow = [(_seconds(forward, calls), _seconds(trace, 1)) for _ in range(trace_repeats)]
    ratios = [other / first for first, other in both]
    return {
        "forward_ms": 1e3 * statistics.median(first for first, _ in both),
        "both_ms": 1e3 * statistics.median(other for _, other in both),
        "trace_ms": 1e3 * statistics.median(other for _, other in slow),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "trace_ratio": statistics.median(other / first for first, other in slow),
        "largest_difference": difference,
        "n_rows": n_rows,
        "width": width,
        "repeats": repeats,
    }


def _calls(function, wanted=0.02):
    """How many calls take about ``wanted`` seconds."""
    function()
    return max(1, round(wanted / _seconds(function, 1)))


def _seconds(function, calls):
    """Seconds of one call, from ``calls`` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return max(time.perf_counter() - start, 1e-9) / calls


# glibc then returns what is freed at once: resident memory follows what is alive, and repeats to about 1 MB
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def scoring_memory(n_rows, repeats=3):
    """Growth of resident memory while ``n_rows`` rows are scored: median over processes of their own.

    Raises
    ------
    RuntimeError
        The process failed; the message is the end of what it wrote.
    """
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-m", "siflow_sk.benchmarks._memory", str(n_rows)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _MALLOC)
        if done.returncode != 0:
            raise RuntimeError(f"scoring {n_rows} rows failed: {done.stderr[-500:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {"repeats": repeats}
