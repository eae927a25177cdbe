"""Checkpoints of a fit: written as it goes, taken up again after it was killed."""

import hashlib
import os
import time
import warnings

from ..exceptions import TrainingWarning
from ._codec import Decoder, Encoder
from ._container import pack, read, write

_ABSENT = "nothing"


class Checkpoint:
    """Where and how often ``fit`` writes how far it has come.

    Parameters
    ----------
    path : str or path-like
        The file.  It appears and is replaced at once or not at all.
    every : float, default=60.0
        Seconds between two writes; 0 writes before every step.

    Examples
    --------
    >>> from siflow_sk.persistence import Checkpoint
    >>> Checkpoint("flow.checkpoint", every=600)
    Checkpoint('flow.checkpoint', every=600)
    """

    def __init__(self, path, every=60.0):
        if not every >= 0:
            raise ValueError(f"every must be a number of seconds >= 0, got {every!r}.")
        self.path, self.every = os.fspath(path), every

    def __repr__(self):
        return f"{type(self).__name__}({self.path!r}, every={self.every!r})"


class OpenCheckpoint:
    """The checkpoint of one call of ``fit``.

    Parameters
    ----------
    checkpoint : str, path-like or Checkpoint

    Attributes
    ----------
    states : list
        What ``keep`` or ``offer`` wrote last; empty where there is no file.
    """

    def __init__(self, checkpoint):
        self.recipe = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
        self.states, self._stored, self._call = [], None, None
        self._last, self._complained = time.monotonic(), False
        path = self.recipe.path
        if os.path.exists(path):
            content, tensors = read(path, "checkpoint")
            try:
                stored = Decoder(tensors).decode(content)
                self.states, self._stored = stored["states"], {**stored["call"], "seed": stored["seed"]}
            except Exception as error:  # the file may hold anything
                told = f"{type(error).__name__}: {error}"
                raise ValueError(f"{path!r}: the content is not that of a checkpoint ({told}).") from error

    @property
    def seed(self):
        """The seed of the fit that wrote the file, or None."""
        return None if self._stored is None else self._stored["seed"]

    def belongs_to(self, call, seed):
        """Compare with the call that wrote the file.

        Parameters
        ----------
        call : dict of str to str
            What the call is, in words or digests.
        seed : int

        Raises
        ------
        ValueError
            They differ; the message says in what.
        """
        self._call = {"call": call, "seed": seed}
        if self._stored is None:
            return
        call = {**call, "seed": seed}
        names = [*call, *(name for name in self._stored if name not in call)]
        differing = [
            f"{name} ({self._stored.get(name, _ABSENT)} there, {call.get(name, _ABSENT)} here)"
            for name in names
            if call.get(name, _ABSENT) != self._stored.get(name, _ABSENT)
        ]
        if differing:
            raise ValueError(
                f"{self.recipe.path!r} is the checkpoint of another fit: it differs in "
                f"{'; '.join(differing)}. Give checkpoint another path, or delete the file to begin anew."
            )

    def offer(self, take):
        """Write what ``take()`` returns if it is time to."""
        if time.monotonic() - self._last >= self.recipe.every:
            self.keep(take)

    def keep(self, take):
        """Write what ``take()`` returns; training goes on where that fails."""
        encoder = Encoder()
        content = encoder.encode({**self._call, "states": take()}, "checkpoint")
        try:
            write(self.recipe.path, pack("checkpoint", content, encoder.tensors), f"{self.recipe.path}.part")
        except OSError as error:
            if not self._complained:
                warnings.warn(
                    f"The checkpoint could not be written ({error}); training goes on without.",
                    TrainingWarning,
                    stacklevel=2,
                )
            self._complained = True
        self._last = time.monotonic()


def in_words(value, path):
    """A text that tells values apart: the value itself where it is short, else a digest."""
    encoder = Encoder()
    node = encoder.encode(value, path)
    if not encoder.tensors and not isinstance(node, dict):
        return repr(value)
    digest = hashlib.sha256(pack("value", node, encoder.tensors)).hexdigest()
    return f"{type(value).__name__} {digest[:12]}"


def digest_of(*arrays):
    """A digest of NumPy arrays, their shapes and types."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype.str}".encode())
        found.update(memoryview(array.reshape(-1)).cast("B"))
    return found.hexdigest()[:16]
