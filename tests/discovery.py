"""Every public estimator of the package, found by walking its modules, so that none can be forgotten."""

import importlib
import inspect
import pkgutil

from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler

import siflow_sk
from siflow_sk import InterpolantFlow
from siflow_sk._component import Component


def public_modules():
    """The package and every module below it whose path has no underscore."""
    modules = [siflow_sk]
    for found in pkgutil.walk_packages(siflow_sk.__path__, "siflow_sk."):
        if not any(step.startswith("_") for step in found.name.split(".")):
            modules.append(importlib.import_module(found.name))
    return modules


def all_estimators():
    """Public classes of ours that define ``fit`` and are not parts of another estimator, sorted by name."""
    found = {
        value
        for module in public_modules()
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, BaseEstimator)
        and not issubclass(value, Component)
        and value.__module__.split(".")[0] == "siflow_sk"
        and hasattr(value, "fit")
        and not name.startswith("_")
        and not inspect.isabstract(value)
    }
    return sorted(found, key=lambda cls: cls.__qualname__)


def is_around(cls):
    """Whether the class wraps another estimator."""
    return bool({"steps", "estimator"} & set(inspect.signature(cls.__init__).parameters))


def configured(cls, **params):
    """An instance with those of ``params`` that the class has; what must be given is given here."""
    known = inspect.signature(cls.__init__).parameters
    if "steps" in known:
        flow = configured(InterpolantFlow, **params)
        return cls([("standardscaler", StandardScaler()), ("interpolantflow", flow)])
    if "estimator" in known:
        params = {**params, "estimator": configured(InterpolantFlow, random_state=0, **params)}
    if "param_grid" in known:
        params = {**params, "param_grid": {"weight_decay": [0.1]}, "cv": 2, "error_score": "raise"}
    return cls(**{name: value for name, value in params.items() if name in known})
