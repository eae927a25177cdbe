"""Which classes a file may name."""

import inspect
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import BallTree, KDTree, KernelDensity
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from .. import bases, couplings, interpolants, preprocessing, solvers, torus, velocities

# Every class that one of these rooms defines may stand in a file; a new room of parts is one more name here.
ROOMS = (bases, couplings, interpolants, preprocessing, solvers, torus, velocities)
# Estimators of scikit-learn whose fitted state is NumPy's and is used by Python code alone.
FOREIGN = (BayesianGaussianMixture, FrozenEstimator, GaussianMixture, PCA)
FOREIGN += (MaxAbsScaler, MinMaxScaler, PowerTransformer, QuantileTransformer, RobustScaler, StandardScaler)
_RESERVED = ("siflow_sk.", "sklearn.", "torch.")


@dataclass(frozen=True)
class Entry:
    """A class, its name in files, and how it becomes a dict of plain values and back."""

    cls: type
    name: str
    get_state: object = vars
    from_state: object = None  # None: an empty instance whose ``__dict__`` is filled


_by_name, _by_class = {}, {}


def add(entry):
    """Enter, or replace the entry of a class that was defined anew."""
    old = _by_name.get(entry.name)
    if old is not None:
        _by_class.pop(old.cls, None)
    _by_name[entry.name] = _by_class[entry.cls] = entry


def entry_of(cls):
    """The entry of exactly this class, or None."""
    return _by_class.get(cls)


def entry_named(name):
    """The entry of this name, or None."""
    return _by_name.get(name) if isinstance(name, str) else None


def own(cls):
    """Enter a class of this package, named ``siflow_sk.<room>.<class>``; a decorator for helper classes."""
    add(Entry(cls, ".".join([*_public(cls.__module__), cls.__qualname__])))
    return cls


def _public(module):
    return [step for step in module.split(".") if not step.startswith("_")]


def register(cls, name=None, *, get_state=vars, from_state=None):
    """Let files hold objects of a class of your own: a part, a network, a torch module inside it.

    A file names the class only; register it again, under the same name, before loading elsewhere.  What is
    stored is the instance's ``__dict__``: numbers, text, arrays, tensors, containers of these and objects of
    registered classes.  A module of torch is stored with its parameters, buffers and inner modules; those of
    ``torch.nn`` need no entry.  Loading makes an empty instance and fills it, without calling ``__init__``.

    Parameters
    ----------
    cls : type
    name : str, default=None
        The name in files; by default module and qualified name.
    get_state : callable, default=vars
        Object to dict of str to value.
    from_state : callable, default=None
        Dict to object, where filling an empty instance is not enough.

    Returns
    -------
    cls : type
        So that ``@register`` decorates a class.

    Raises
    ------
    TypeError
        Not a class.
    ValueError
        The name belongs to another class.

    Examples
    --------
    >>> from siflow_sk.interpolants import Interpolant
    >>> from siflow_sk.persistence import register
    >>> class Square(Interpolant):
    ...     def alpha(self, t):
    ...         return 1 - t**2
    ...     def beta(self, t):
    ...         return t**2
    >>> register(Square, "my_project.Square").__name__
    'Square'
    """
    if not isinstance(cls, type):
        raise TypeError(f"register takes a class, got {cls!r}; register type(part) instead.")
    name = f"{cls.__module__}.{cls.__qualname__}" if name is None else name
    known = entry_named(name)
    again = known is not None and _origin(known.cls) == _origin(cls)
    if name.startswith(_RESERVED) or (known is not None and not again):
        owner = known.cls if known is not None else "this library"
        raise ValueError(f"name={name!r} belongs to {owner}; choose another one.")
    add(Entry(cls, name, get_state, from_state))
    return cls


def _origin(cls):
    return cls.__module__, cls.__qualname__


def _kernel_density_state(estimator):
    """The rows instead of the tree: its memory, taken from a file, would be trusted by compiled code."""
    state = dict(vars(estimator))
    tree = state.pop("tree_", None)
    if tree is not None:
        parts = tree.__getstate__()
        state["tree_"] = {"kind": type(tree).__name__, "rows": parts[0], "weight": parts[-1]}
    return state


def _kernel_density(state):
    estimator = KernelDensity.__new__(KernelDensity)
    tree = state.pop("tree_", None)
    vars(estimator).update(state)
    if tree is not None:
        kind = {"KDTree": KDTree, "BallTree": BallTree}[tree["kind"]]
        if tree["weight"] is not None and tree["weight"].shape != tree["rows"].shape[:1]:
            raise ValueError("as many weights as rows wanted")  # the tree does not look
        estimator.tree_ = kind(
            tree["rows"],
            metric=estimator.metric,
            leaf_size=estimator.leaf_size,
            sample_weight=tree["weight"],
            **(estimator.metric_params or {}),
        )
    return estimator


def _k_means(state):
    """Compiled code reads as many columns of the centres as a row has, and does not look."""
    centres = state.get("cluster_centers_")
    if centres is not None and centres.shape[1:] != (state.get("n_features_in_"),):
        raise ValueError("centres with the columns of the rows wanted")
    estimator = KMeans.__new__(KMeans)
    vars(estimator).update(state)
    return estimator


def _fill():
    for room in ROOMS:
        seen = [room, *(value for value in vars(room).values() if inspect.ismodule(value))]
        for module in seen:
            for cls in vars(module).values():
                if isinstance(cls, type) and f"{cls.__module__}.".startswith(f"{room.__name__}."):
                    own(cls)
    for cls in FOREIGN:
        add(Entry(cls, f"sklearn.{cls.__name__}"))
    add(Entry(KernelDensity, "sklearn.KernelDensity", _kernel_density_state, _kernel_density))
    add(Entry(KMeans, "sklearn.KMeans", from_state=_k_means))
    for space, base in ((torch.nn, torch.nn.Module), (torch.distributions, torch.distributions.Distribution)):
        for name, cls in vars(space).items():
            if isinstance(cls, type) and issubclass(cls, base):
                add(Entry(cls, f"{space.__name__}.{name}"))


_fill()
