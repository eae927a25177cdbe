"""Invertible maps of the data with their log-determinant."""

from ._affine import Identity, Standardize, Whiten
from ._base import Preprocessor
from ._marginal import Gaussianize

PREPROCESSORS = {
    "none": Identity,
    "standardize": Standardize,
    "whiten": Whiten,
    "gaussianize": Gaussianize,
}

__all__ = ["PREPROCESSORS", "Gaussianize", "Identity", "Preprocessor", "Standardize", "Whiten"]
