"""Objects of registered classes as JSON and tensors, and back.

A node is null, a bool, an int, a finite float, a string, a list of nodes, or ``{"$": kind, ...}``.
"""

import copy
import inspect
import math

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from torch import nn

from .._compat import is_metadata_request, metadata_request
from ._registry import entry_named, entry_of

_NUMBERS = "fiub"  # kinds of NumPy that a tensor can hold, besides long double
_MODULE_OWN = set(vars(nn.Module()))
_MODULE_KEPT = {"training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"}
_FLOATS = 8  # lists of this many floats or more become a tensor: exact and compact


class Encoder:
    """Turn values into nodes, their numbers into ``tensors``.

    Parameters
    ----------
    foreign : list, default=None
        Takes what no node can express, for pickle to store; without it such values raise.
    """

    def __init__(self, foreign=None):
        self.tensors, self.foreign, self._seen, self._alive = {}, foreign, {}, []

    def encode(self, value, path):
        """The node of ``value``; ``path`` is what messages call it.

        Raises
        ------
        ValueError
            A function, a class, an object of a class that is not registered.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
        if id(value) in self._seen:
            return {"$": "same", "id": self._seen[id(value)]}
        try:
            return self._node(value, path)
        except ValueError:
            if self.foreign is None:
                raise
            self.foreign.append(on_cpu(value))
            return {"$": "foreign", "index": len(self.foreign) - 1}

    def inside(self, value):
        """The state of an object that somebody else makes; its parts may refer to it."""
        self._name(value)
        return self._state(vars(value), type(value).__name__)

    def _node(self, value, path):
        for kind, encode in self._kinds:
            if isinstance(value, kind):
                return encode(self, value, path)
        if is_metadata_request(value):
            return {"$": "requests", "items": self.encode(value._serialize(), path)}
        return self._object(value, path)

    def _name(self, value):
        self._alive.append(value)  # an id is that of this object only while it lives
        return self._seen.setdefault(id(value), len(self._seen))

    def _list(self, value, path):
        if len(value) >= _FLOATS and all(type(v) is float for v in value):
            return {"$": "floats", "key": self._put(torch.tensor(value, dtype=torch.float64))}
        return [self.encode(v, f"{path}[{i}]") for i, v in enumerate(value)]

    def _tuple(self, value, path):
        kind = "size" if isinstance(value, torch.Size) else "tuple"
        if kind == "tuple" and type(value) is not tuple:
            raise self._refused(value, path)
        return {"$": kind, "items": [self.encode(v, f"{path}[{i}]") for i, v in enumerate(value)]}

    def _dict(self, value, path):
        if type(value) not in (dict, Bunch):
            raise self._refused(value, path)
        keys = [self.encode(k, f"key of {path}") for k in value]
        values = [self.encode(v, f"{path}[{k!r}]") for k, v in value.items()]
        items = [list(pair) for pair in zip(keys, values, strict=True)]
        return {"$": "dict" if type(value) is dict else "bunch", "items": items}

    def _index(self, value, path):
        if type(value) not in (pd.Index, pd.RangeIndex) or value.dtype.kind not in _NUMBERS + "OT":
            raise self._refused(value, path)
        labels = {"values": self.encode(value.tolist(), path), "name": self.encode(value.name, path)}
        return {"$": "index", "dtype": str(value.dtype), **labels}

    def _array(self, value, path):
        if value.dtype.kind in "OU":
            items = [self.encode(v, path) for v in value.ravel().tolist()]
            return {"$": "objects", "kind": value.dtype.kind, "shape": list(value.shape), "items": items}
        if value.dtype.kind not in _NUMBERS or value.dtype.itemsize > 8:
            raise ValueError(f"{path} is an array of {value.dtype}, which a file cannot hold.")
        flipped = not value.flags.c_contiguous and value.flags.f_contiguous
        plain = np.array(value.T if flipped else value, dtype=value.dtype.newbyteorder("="), order="C")
        key = self._put(torch.from_numpy(plain))
        return {"$": "array", "id": self._name(value), "key": key, "flipped": flipped}

    def _scalar(self, value, path):
        return {"$": "scalar", "value": self.encode(np.asarray(value), path)}

    def _dtype(self, value, path):
        return {"$": "dtype", "name": value.str}

    def _torch_dtype(self, value, path):
        return {"$": "torch_dtype", "name": str(value).removeprefix("torch.")}

    def _tensor(self, value, path):
        parameter = isinstance(value, nn.Parameter)
        plain = value.detach().cpu()
        if plain.layout != torch.strided or plain.is_complex() or plain.is_quantized:
            raise ValueError(f"{path} is a tensor of {plain.dtype}, {plain.layout}: no file can hold it.")
        if self.foreign is not None and plain.dtype == torch.bfloat16:
            raise ValueError(f"{path}: NumPy has no bfloat16")
        flipped = plain.ndim == 2 and not plain.is_contiguous() and plain.T.is_contiguous()
        key = self._put((plain.T if flipped else plain).clone(memory_format=torch.contiguous_format))
        node = {"$": "tensor", "id": self._name(value), "key": key, "flipped": flipped}
        return {**node, "parameter": parameter, "grad": value.requires_grad}

    def _random_state(self, value, path):
        return {"$": "random_state", "state": self.encode(value.get_state(legacy=False), path)}

    def _module(self, value, path):
        entry = self._entry(value, path)
        hooks = sorted(name for name in _MODULE_OWN - _MODULE_KEPT if vars(value).get(name))
        if hooks:
            raise ValueError(f"{path} is a module with {', '.join(hooks)}; remove the hooks before saving.")
        groups = {name: getattr(value, f"_{name}") for name in ("parameters", "buffers", "modules")}
        groups["attributes"] = {name: v for name, v in vars(value).items() if name not in _MODULE_OWN}
        return {
            "$": "module",
            "id": self._name(value),
            "class": entry.name,
            "training": value.training,
            "transient": sorted(value._non_persistent_buffers_set),
            **{name: self._state(group, path) for name, group in groups.items()},
        }

    def _object(self, value, path):
        entry = self._entry(value, path)
        if entry.get_state is vars and not hasattr(value, "__dict__"):
            raise self._refused(value, path)
        node = {"$": "object", "id": self._name(value), "class": entry.name}
        return {**node, "state": self._state(entry.get_state(value), path)}

    def _state(self, state, path):
        return {name: self.encode(value, f"{path}.{name}") for name, value in state.items()}

    def _entry(self, value, path):
        entry = entry_of(type(value))
        if entry is None:
            raise self._refused(value, path)
        return entry

    def _put(self, tensor):
        key = str(len(self.tensors))
        self.tensors[key] = tensor
        return key

    @staticmethod
    def _refused(value, path):
        if inspect.isroutine(value) or isinstance(value, type):
            what = f"{path} holds {value!r}, which only pickle could store"
            return ValueError(f"{what}; put it into a method of a class and pass an instance.")
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        return ValueError(
            f"{path} holds an object of {name}, a class that is not registered. Call "
            f"siflow_sk.persistence.register({type(value).__name__}) before saving and before loading; or "
            "use pickle or joblib, and load only files that you trust."
        )

    _kinds = [
        (list, _list),
        (tuple, _tuple),
        (dict, _dict),
        (pd.Index, _index),
        (np.ndarray, _array),
        (np.generic, _scalar),
        (np.dtype, _dtype),
        (torch.dtype, _torch_dtype),
        (torch.Tensor, _tensor),
        (np.random.RandomState, _random_state),
        (nn.Module, _module),
    ]


def on_cpu(value):
    """A tensor or module on the CPU, so that a pickle of it wakes anywhere."""
    if isinstance(value, nn.Module) and any(v.device.type != "cpu" for v in value.state_dict().values()):
        return copy.deepcopy(value).cpu()
    return value.cpu() if isinstance(value, torch.Tensor) else value


class Decoder:
    """Turn nodes back into values; anything unexpected raises."""

    def __init__(self, tensors, foreign=()):
        self._tensors, self._foreign, self._made, self.objects = tensors, foreign, {}, []

    def decode(self, node):
        """The value of a node."""
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) is list:
            return [self.decode(v) for v in node]
        return self._kinds[node["$"]](self, node)

    def inside(self, value, state):
        """The inverse of ``Encoder.inside``."""
        self._made[0] = value
        vars(value).update(self._state(state))

    def _remember(self, node, value):
        self._made[node["id"]] = value
        return value

    def _same(self, node):
        return self._made[node["id"]]

    def _foreign_object(self, node):
        return self._foreign[node["index"]]

    def _float(self, node):
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[node["value"]]

    def _floats(self, node):
        tensor = self._tensors[node["key"]]
        if tensor.dtype != torch.float64 or tensor.ndim != 1:
            raise ValueError("a list of floats is a vector of float64")
        return tensor.tolist()

    def _tuple(self, node):
        return tuple(self.decode(node["items"]))

    def _size(self, node):
        return torch.Size(self.decode(node["items"]))

    def _dict(self, node):
        return {self.decode(k): self.decode(v) for k, v in node["items"]}

    def _bunch(self, node):
        return Bunch(**self._dict(node))

    def _index(self, node):
        if node["dtype"] not in ("object", "str", "int64", "float64", "bool"):
            raise ValueError(f"labels of dtype {node['dtype']!r}")
        return pd.Index(self.decode(node["values"]), dtype=node["dtype"], name=self.decode(node["name"]))

    def _array(self, node):
        value = self._tensors[node["key"]].clone().numpy()  # clone: aligned memory of its own
        return self._remember(node, value.T if node["flipped"] else value)

    def _objects(self, node):
        items, shape = [self.decode(v) for v in node["items"]], tuple(node["shape"])
        if node["kind"] == "U":
            return np.array(items, dtype=str).reshape(shape)
        value = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):
            value[i] = item
        return value.reshape(shape)

    def _scalar(self, node):
        value = self.decode(node["value"])
        if not isinstance(value, np.ndarray) or value.ndim:
            raise ValueError("a scalar is an array without dimensions")
        return value[()]

    def _dtype(self, node):
        dtype = np.dtype(str(node["name"]))
        if dtype.kind not in _NUMBERS + "OU" or dtype.fields:
            raise ValueError(f"dtype {dtype}")
        return dtype

    def _torch_dtype(self, node):
        dtype = getattr(torch, str(node["name"]))
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype {dtype}")
        return dtype

    def _tensor(self, node):
        value = self._tensors[node["key"]].clone()
        value = value.mT if node["flipped"] else value
        if node["parameter"]:
            value = nn.Parameter(value, requires_grad=node["grad"])
        else:
            value.requires_grad_(node["grad"])
        return self._remember(node, value)

    def _random_state(self, node):
        state = self.decode(node["state"])
        if not 0 <= state["state"]["pos"] <= 624:  # NumPy would read beyond the end
            raise ValueError("a position outside of the generator's state")
        generator = np.random.RandomState(0)
        generator.set_state(state)
        return generator

    def _requests(self, node):
        return metadata_request(self.decode(node["items"]))

    def _module(self, node):
        cls = self._class(node, nn.Module)
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        self._remember(node, module)
        module.training = bool(node["training"])
        module._non_persistent_buffers_set.update(map(str, node["transient"]))
        own = self._state(node["attributes"])
        if _MODULE_OWN & own.keys():
            raise ValueError("attributes that torch keeps for itself")
        vars(module).update(own)
        for name, kind in (("parameters", nn.Parameter), ("buffers", torch.Tensor), ("modules", nn.Module)):
            group = self._state(node[name])
            if not all(v is None or isinstance(v, kind) for v in group.values()):
                raise ValueError(f"{name} of another type")
            getattr(module, f"_{name}").update(group)
        return module

    def _object(self, node):
        cls = self._class(node, object)
        if issubclass(cls, nn.Module):
            raise ValueError("a module is stored as a module")
        from_state = entry_named(node["class"]).from_state
        if from_state is None:  # remembered before it is filled, so that its parts may refer to it
            value = self._remember(node, cls.__new__(cls))
            vars(value).update(self._state(node["state"]))
        else:
            value = self._remember(node, from_state(self._state(node["state"])))
        if isinstance(value, BaseEstimator):
            _fill_in(value)
        self.objects.append(value)
        return value

    def _state(self, state):
        return {str(name): self.decode(value) for name, value in state.items()}

    @staticmethod
    def _class(node, base):
        entry = entry_named(node["class"])
        if entry is None or not issubclass(entry.cls, base):
            raise UnknownClass(
                f"it names the class {node['class']!r}, which is not registered here; if it is your own, "
                "call siflow_sk.persistence.register on it before loading"
            )
        return entry.cls

    _kinds = {
        "same": _same,
        "foreign": _foreign_object,
        "float": _float,
        "floats": _floats,
        "tuple": _tuple,
        "size": _size,
        "dict": _dict,
        "bunch": _bunch,
        "index": _index,
        "array": _array,
        "objects": _objects,
        "scalar": _scalar,
        "dtype": _dtype,
        "torch_dtype": _torch_dtype,
        "tensor": _tensor,
        "random_state": _random_state,
        "requests": _requests,
        "module": _module,
        "object": _object,
    }


class UnknownClass(ValueError):
    """A file names a class that is not registered."""


def _fill_in(estimator):
    """Parameters that came after the file was written get their defaults."""
    for name, parameter in inspect.signature(type(estimator).__init__).parameters.items():
        if parameter.default is not parameter.empty:
            vars(estimator).setdefault(name, parameter.default)
