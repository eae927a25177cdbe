"""The only place that imports scikit-learn's underscored names; they may move between releases."""

from sklearn.base import _fit_context
from sklearn.utils._param_validation import HasMethods, Hidden, Interval, Options, StrOptions
from sklearn.utils._set_output import _get_container_adapter, _get_output_config
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "HasMethods",
    "Hidden",
    "Interval",
    "Options",
    "StrOptions",
    "_BaseComposition",
    "_check_sample_weight",
    "_fit_context",
    "in_container",
]


def in_container(estimator, values, columns, original=None):
    """Wrap an array as ``set_output(transform=...)`` asks for; the index is that of ``original``."""
    if _get_output_config("transform", estimator)["dense"] == "default":
        return values
    adapter = _get_container_adapter("transform", estimator)
    original = values if original is None else original
    return adapter.create_container(values, original, columns=lambda: columns)
