"""Save an estimator to one file and load it again, without pickle."""

import json
import sys
import warnings

import numpy as np
import safetensors
import sklearn
import torch
from sklearn.base import BaseEstimator

from .._version import __version__
from ..exceptions import VersionWarning
from ._checkpoint import Checkpoint, OpenCheckpoint, digest_of, in_words
from ._codec import Decoder, Encoder, UnknownClass
from ._container import FORMAT_VERSION, pack, read, write
from ._registry import Entry, add, own, register

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "OpenCheckpoint",
    "SaveMixin",
    "digest_of",
    "in_words",
    "load",
    "own",
    "register",
]

_PACKAGE = __name__.split(".")[0]


class SaveMixin:
    """``save(path)`` for an estimator; classes of this package are registered when they are defined."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__module__.split(".")[0] == _PACKAGE and issubclass(cls, BaseEstimator):
            add(Entry(cls, f"{_PACKAGE}.{cls.__name__}"))

    def save(self, path):
        """Write the estimator, fitted or not, to one file.

        The file is a safetensors container: numbers as tensors, everything else as JSON, a SHA-256 of all of
        it.  It appears at once or, after a failure, not at all: what was at ``path`` before is then intact.
        Parts of your own are stored when their class is registered, see
        :func:`siflow_sk.persistence.register`.  :func:`siflow_sk.load` reads it.

        Parameters
        ----------
        path : str or path-like
            Name of the file; an existing one is replaced.

        Raises
        ------
        ValueError
            A parameter holds a function, or an object of a class that is not registered; it is named.
        OSError
            No such directory, no permission, no space left, or ``path`` is a directory.
        """
        encoder = Encoder()
        content = {"versions": _versions(), "object": encoder.encode(self, type(self).__name__)}
        write(path, pack("estimator", content, encoder.tensors))

    def __getstate__(self):
        """Arrays and text, for pickle, joblib and skops; as it is only what nothing but pickle can store."""
        encoder = Encoder(foreign=[])
        content = {"versions": _versions(), "state": encoder.inside(self)}
        return {
            "siflow_sk": json.dumps(content, allow_nan=False),
            "arrays": {key: tensor.numpy() for key, tensor in encoder.tensors.items()},
            "foreign": encoder.foreign,
        }

    def __setstate__(self, state):
        if "siflow_sk" not in state:  # a pickle from before version 0.2, or made by hand
            vars(self).update(state)
            return
        decoder = Decoder({k: torch.tensor(v) for k, v in state["arrays"].items()}, state["foreign"])
        content = json.loads(state["siflow_sk"])
        decoder.inside(self, content["state"])
        _compare(content["versions"], [self, *decoder.objects], "siflow_sk")
        for made in [self, *decoder.objects]:
            if isinstance(made, SaveMixin):
                made._place("cpu")

    def _place(self, device):
        """Put what ``fit`` made on a device; called after loading."""


def load(path, device="auto"):
    """The estimator that ``save(path)`` wrote.

    Never unpickles, and runs no code that the file could name: it makes objects of registered classes only
    and fills them with numbers and text.  See :doc:`/persistence` for what this promises.

    Parameters
    ----------
    path : str or path-like
    device : str, default="auto"
        Where the model is to work: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; ``"auto"`` is CUDA where it is, else
        the CPU, wherever the model was fitted.

    Returns
    -------
    estimator : estimator
        As it was saved: parameters, everything learnt, and what ``set_output`` asked for.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        Not a file of ours (a pickle, another format), truncated, damaged, of a newer format version, or of
        a class that is not registered.  Also if ``device`` is not there.

    Warns
    -----
    VersionWarning
        Another version of a library whose private state is in the file.

    Examples
    --------
    >>> import os, tempfile
    >>> import siflow_sk
    >>> from siflow_sk import InterpolantFlow
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "flow.safetensors")
    ...     InterpolantFlow(max_iter=50).save(path)
    ...     siflow_sk.load(path)
    InterpolantFlow(max_iter=50)
    """
    content, tensors = read(path, "estimator")
    decoder = Decoder(tensors)
    try:
        estimator = decoder.decode(content["object"])
        versions = {str(name): str(version) for name, version in content["versions"].items()}
    except UnknownClass as error:
        raise ValueError(f"{str(path)!r}: {error}.") from error
    except Exception as error:  # the file may hold anything, and a forged one does
        raise _not_ours(path, error) from error
    if not isinstance(estimator, SaveMixin):
        raise ValueError(f"{str(path)!r} holds a {type(estimator).__name__}, not an estimator of ours.")
    _compare(versions, decoder.objects)
    for made in decoder.objects:
        if isinstance(made, SaveMixin):
            try:
                made._place(device)
            except (AttributeError, TypeError) as error:
                raise _not_ours(path, error) from error
    return estimator


def _not_ours(path, error):
    try:
        told = f"{type(error).__name__}: {error}"
    except Exception:  # a text that would show an object which the file left half-made
        told = type(error).__name__
    return ValueError(f"{str(path)!r}: the content is not what save(path) writes ({told}).")


def _versions():
    return {
        "siflow_sk": __version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "python": sys.version.split()[0],
    }


def _compare(versions, objects, *more):
    """Objects of other libraries are stored as that library's version keeps them; in a pickle, ours too."""
    here, packages = _versions(), {"scikit-learn": "sklearn", "torch": "torch"}
    for name in (*packages, *more):
        package = packages.get(name, name)
        kept = sorted({type(o).__name__ for o in objects if type(o).__module__.split(".")[0] == package})
        if kept and versions.get(name) != here[name]:
            warnings.warn(
                VersionWarning(
                    estimator_name=", ".join(kept),
                    current_sklearn_version=f"{here[name]} of {name}",
                    original_sklearn_version=f"{versions.get(name)} of {name}",
                ),
                stacklevel=3,
            )
