"""Peak memory of scoring, in a process of its own: ``python -m siflow_sk.benchmarks._memory N_ROWS``."""

import gc
import json
import sys
import time

import numpy as np

from siflow_sk import InterpolantFlow
from siflow_sk.benchmarks._timing import forget_peak, resident, return_free_memory
from siflow_sk.velocities import MLP

_N_FEATURES = 6


def scoring_growth(n_rows):
    """How far resident memory rises above its level while ``n_rows`` rows are scored.

    Returns
    -------
    result : dict
        ``peak_bytes`` without ``answer_bytes``, the returned array; the table was there before.
    """
    rng = np.random.default_rng(0)
    flow = InterpolantFlow(max_iter=20, polish=10, velocity=MLP(width=32), random_state=0)
    flow.fit(rng.standard_normal((400, _N_FEATURES)))
    X = rng.standard_normal((n_rows, _N_FEATURES))
    flow.score_samples(X[:1000])  # what is loaded at first use does not belong to the rows
    gc.collect()
    return_free_memory()
    forget_peak()
    before = resident()[0]
    start = time.perf_counter()
    answer = flow.score_samples(X)
    seconds = time.perf_counter() - start
    growth = max(0, resident()[1] - before - answer.nbytes)
    return {"peak_bytes": growth, "answer_bytes": answer.nbytes, "input_bytes": X.nbytes, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(scoring_growth(int(sys.argv[1]))))
