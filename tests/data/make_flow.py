"""Write the fixture of the present format version: ``python tests/data/make_flow.py``, once per version."""

import json
from pathlib import Path

import numpy as np

from siflow_sk import InterpolantFlow
from siflow_sk.interpolants import WithNoise
from siflow_sk.persistence import FORMAT_VERSION, _registry
from siflow_sk.velocities import MLP

HERE = Path(__file__).parent
X = np.random.default_rng(0).normal(size=(120, 2))
flow = InterpolantFlow(
    base="gaussian",
    interpolant=WithNoise("linear"),
    velocity=MLP(width=8, time_width=8),
    max_iter=20,
    polish=5,
    random_state=0,
    device="cpu",
).fit(X)
name = HERE / f"flow_v{FORMAT_VERSION}"
if name.with_suffix(".safetensors").exists():
    raise SystemExit(f"{name}.safetensors is there; a fixture is written once.")
flow.save(name.with_suffix(".safetensors"))
figures = {"X": X[:5].tolist(), "score_samples": flow.score_samples(X[:5]).tolist()}
name.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
own = sorted(name for name in _registry._by_name if name.startswith("siflow_sk."))
(HERE / f"names_v{FORMAT_VERSION}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
