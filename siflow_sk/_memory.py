"""How much memory a block of rows may take."""

from pathlib import Path

import sklearn
import torch

_SYSTEM = Path("/proc/meminfo")
# of a container, in version 2 and 1 of control groups: limit, use, cached files in it that count as free
_GROUPS = [
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


def usable_bytes(device):
    """The smaller of scikit-learn's ``working_memory`` and half of what is free on ``device``."""
    limit = sklearn.get_config()["working_memory"] * 2**20
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return min(limit, 0.5 * (torch.cuda.mem_get_info(device)[0] + kept))
    return min([limit, *(0.5 * free for free in _free_on_host())])


def _free_on_host():
    """What the system and the container leave, as far as they tell."""
    if "MemAvailable" in (system := _fields(_SYSTEM)):
        yield 1024 * system["MemAvailable"]
    for folder, limit, used, cached in _GROUPS:
        limit, used = _number(folder / limit), _number(folder / used)
        if limit is not None and used is not None:
            yield max(0, limit - used + _fields(folder / "memory.stat").get(cached, 0))


def _fields(path):
    """The number behind each name; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="ascii").replace(":", " ").splitlines()
    except OSError:
        return {}
    return {name: int(number) for name, number, *_ in map(str.split, lines) if number.isdigit()}


def _number(path):
    """The number in a file; None where there is none, as in "max"."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
