"""Named slots that GridSearchCV can reach into.

A slot holds a *name* or a *part*.  A name is what you say (``velocity="mlp"``), a part is what you tune
(``velocity=MLP(width=512)``).  Setting a parameter inside a named slot turns the name into its part, so
``{"velocity__width": [256, 512]}`` searches inside a name.
"""

import math
from typing import ClassVar

import torch
from sklearn.base import BaseEstimator, clone


class Component(BaseEstimator):
    """Base of every part: parameters are stored verbatim by ``__init__`` and seen by ``get_params``."""


def draw_seed(generator):
    """A seed for what takes no generator."""
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


def seeded(estimator, generator):
    """A scikit-learn estimator inside a part draws from the generator of the fit, if it draws."""
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=draw_seed(generator))
    return estimator


def check_learning(part):
    """Refuse parameters of a learnt part that no training can use."""
    name = type(part).__name__
    steps, rate = part.n_velocity_steps, part.learning_rate
    if not (steps >= 1 and steps == int(steps)):
        raise ValueError(f"{name}: n_velocity_steps must be a whole number >= 1, got {steps!r}.")
    if not 0.0 < rate < math.inf:
        raise ValueError(f"{name}: learning_rate must be finite and > 0, got {rate!r}.")


def check_size(part, slot, largest=10.0):
    """Refuse coefficients of a learnt part that have diverged."""
    size = float(part.coefficients_.detach().abs().max())
    if not size <= largest:  # NaN included
        raise ValueError(
            f"{slot}={part!r}: the coefficients diverged, the largest is {size:.3g}. Lower its "
            f"learning_rate, or raise n_velocity_steps so that the velocity keeps up with the {slot}."
        )


def _key(name):
    return "none" if name is None else name


def resolve(slot, value, table, accepts=()):
    """The part that a slot stands for, as a fresh object that ``fit`` may change.

    Parameters
    ----------
    slot : str
        Name of the parameter, used in messages.
    value : str, None or part
        What the user gave; ``None`` means ``"none"``.
    table : dict
        Name -> class.
    accepts : tuple of str
        Methods that a part must have.

    Raises
    ------
    ValueError
        The name is unknown, a class was passed instead of an instance, or a method is missing.
    """
    if value is None or isinstance(value, str):
        if _key(value) not in table:
            raise ValueError(
                f"{slot}={value!r} is not one of {sorted(table)}; pass one of these names or an instance."
            )
        return table[_key(value)]()
    if isinstance(value, type):
        raise ValueError(f"{slot}={value.__name__} is a class; pass an instance: {value.__name__}().")
    missing = [name for name in accepts if not hasattr(value, name)]
    if missing:
        raise ValueError(
            f"{slot}={value!r} lacks {', '.join(missing)}; pass one of {sorted(table)} "
            f"or an object with the methods {', '.join(accepts)}."
        )
    return clone(value, safe=False)


class SlotsMixin:
    """Parameter access for an estimator whose parameters are slots.

    ``_slots`` maps the name of a parameter to its table ``name -> class``.
    """

    _slots: ClassVar[dict] = {}

    def get_params(self, deep=True):
        """Parameters of the estimator and, if ``deep``, of the parts in its slots, named ones included.

        Parameters
        ----------
        deep : bool, default=True
            Also list the parameters of the parts.

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep=deep)
        if deep:
            for slot, table in self._slots.items():
                value = getattr(self, slot)
                if (value is None or isinstance(value, str)) and _key(value) in table:
                    inner = table[_key(value)]().get_params(deep=True)
                    params.update({f"{slot}__{name}": v for name, v in inner.items()})
        return params

    def set_params(self, **params):
        """Set parameters; touching the inside of a named slot turns the name into the part.

        Parameters
        ----------
        **params : dict
            ``name=value`` or ``slot__name=value``.

        Returns
        -------
        self : object
        """
        for slot in {key.split("__", 1)[0] for key in params if "__" in key} & set(self._slots):
            value = params.get(slot, getattr(self, slot))
            if value is None or isinstance(value, str):
                params[slot] = resolve(slot, value, self._slots[slot])
        return super().set_params(**params)
