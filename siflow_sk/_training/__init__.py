"""The loop, and the plan that decides what goes into it."""

from ._data import Data, History, Settings
from ._draws import Batches
from ._loop import Trainer
from ._meeting import Meeting, leave
from ._plan import Fitted, fit_parts, make_settings, networks_of
from ._solutions import solved_together

__all__ = [
    "Batches",
    "Data",
    "Fitted",
    "History",
    "Meeting",
    "Settings",
    "Trainer",
    "fit_parts",
    "leave",
    "make_settings",
    "networks_of",
    "solved_together",
]
