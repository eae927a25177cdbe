"""Density estimation with stochastic interpolants, the scikit-learn way."""

import os as _os

import torch as _torch

from ._about import show_versions
from ._version import __version__
from .classifier import InterpolantClassifier
from .conditional import ConditionalInterpolantFlow
from .flow import InterpolantFlow
from .imputer import InterpolantImputer
from .mixed import MixedDensity
from .outlier import InterpolantOutlierDetector
from .persistence import load
from .pipeline import DensityPipeline, make_density_pipeline
from .search import InterpolantSearchCV
from .transport import InterpolantTransport

__all__ = [
    "ConditionalInterpolantFlow",
    "DensityPipeline",
    "InterpolantClassifier",
    "InterpolantFlow",
    "InterpolantImputer",
    "InterpolantOutlierDetector",
    "InterpolantSearchCV",
    "InterpolantTransport",
    "MixedDensity",
    "__version__",
    "load",
    "make_density_pipeline",
    "show_versions",
]

if hasattr(_os, "register_at_fork"):
    # a forked child that inherits torch's thread pool hangs at its first parallel operation
    _os.register_at_fork(after_in_child=lambda: _torch.set_num_threads(1))
