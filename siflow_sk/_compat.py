"""The only place that imports scikit-learn's underscored names; they may move between releases."""

from sklearn.base import _fit_context
from sklearn.utils._metadata_requests import MetadataRequest
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
    "is_metadata_request",
    "metadata_request",
]


def in_container(estimator, values, columns, original=None):
    """Wrap an array as ``set_output(transform=...)`` asks for; the index is that of ``original``."""
    if _get_output_config("transform", estimator)["dense"] == "default":
        return values
    adapter = _get_container_adapter("transform", estimator)
    original = values if original is None else original
    return adapter.create_container(values, original, columns=lambda: columns)


def is_metadata_request(value):
    """Whether this is what ``set_fit_request`` and its kin leave in an estimator."""
    return isinstance(value, MetadataRequest)


def metadata_request(requests, owner=None):
    """Such an object, from ``{method: {parameter: alias}}``."""
    made = MetadataRequest(owner=owner)
    for method, parameters in requests.items():
        for name, alias in parameters.items():
            getattr(made, method).add_request(param=name, alias=alias)
    return made
