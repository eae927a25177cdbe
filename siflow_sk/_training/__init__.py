"""The loop, and the plan that decides what goes into it."""

from ._data import Data, History, Settings
from ._draws import Batches
from ._loop import Trainer
from ._plan import Fitted, fit_parts, make_settings, networks_of
from ._together import Meeting

__all__ = [
    "Batches",
    "Data",
    "Fitted",
    "History",
    "Meeting",
    "Settings",
    "Trainer",
    "fit_parts",
    "make_settings",
    "networks_of",
]
