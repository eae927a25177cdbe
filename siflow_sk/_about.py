"""What a report of a bug should say about the machine."""

import os
import platform
import sys
from importlib import metadata

import torch

_NEEDED = ("siflow_sk", "torch", "torchdiffeq", "scikit-learn", "numpy", "scipy", "pandas", "joblib", "tqdm")
_OPTIONAL = ("safetensors", "matplotlib", "pooch", "h5py", "pyarrow", "zuko", "skops")


def show_versions():
    """Print the versions of Python, of the libraries in use, and what torch finds on this machine.

    Paste it into a report of a bug.

    Examples
    --------
    >>> import siflow_sk
    >>> siflow_sk.show_versions()  # doctest: +ELLIPSIS
    System
        python: 3...
    """
    for title, lines in (("System", _system()), ("Libraries", _libraries()), ("torch", _torch())):
        print(title)
        for name, value in lines.items():
            print(f"    {name}: {value}")


def _system():
    return {
        "python": sys.version.replace("\n", " "),
        "executable": sys.executable,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
    }


def _libraries():
    return {name: _version(name) for name in (*_NEEDED, *_OPTIONAL)}


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _torch():
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "built for CUDA": torch.version.cuda,
        "GPUs": ", ".join(gpus) or "none",
    }
