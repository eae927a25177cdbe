"""Results as JSON lines, what they were measured with, and which code they belong to."""

import ast
import contextlib
import datetime
import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

import siflow_sk

_PACKAGE = Path(siflow_sk.__file__).parent
_WRAPPERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Records:
    """An append-only file of JSON lines; of several lines with one key the last one counts.

    Parameters
    ----------
    path : Path
        Made by the first :meth:`add`.  A last line that an interrupted run left incomplete is passed over.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.rows = []
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        self._whole = text == "" or text.endswith("\n")
        for line in text.splitlines():
            try:
                self.rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue

    def find(self, key):
        """The last record that has every entry of ``key``, or None."""
        for row in reversed(self.rows):
            if all(row.get(name) == value for name, value in key.items()):
                return row
        return None

    def add(self, record):
        """Append a record and have it on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("" if self._whole else "\n") + json.dumps(record) + "\n")
        self._whole = True
        self.rows.append(record)

    def to_show(self, code, quick):
        """Records of each kind that belong to one code: the present one, or where it has none the newest.

        Parameters
        ----------
        code : dict
            Kind -> the present code.
        quick : bool

        Returns
        -------
        rows : list of dict
        current : bool
            Whether all of them are of the present code.
        """
        rows = [row for row in self.rows if row["quick"] == quick and row["kind"] in code]
        shown = dict(code)
        for kind in code:
            seen = [row["code"] for row in rows if row["kind"] == kind]
            if seen and code[kind] not in seen:
                shown[kind] = seen[-1]
        return [row for row in rows if row["code"] == shown[row["kind"]]], shown == code


def code_of(*patterns, without=()):
    """Twelve hex digits that change with the meaning of the package's modules.

    Comments, docstrings and layout do not count: what was measured stays measured when only they change.

    Parameters
    ----------
    *patterns : str
        Globs below the package's folder.
    without : sequence of str
        First folders below the package that do not count.
    """
    digest = hashlib.sha256()
    paths = {path for pattern in patterns for path in _PACKAGE.glob(pattern)}
    for path in sorted(paths):
        name = path.relative_to(_PACKAGE)
        if name.parts[0] not in without:
            digest.update(f"{name.as_posix()}\n{_meaning(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()[:12]


def _meaning(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _WRAPPERS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return repr(_filled(tree))


def _filled(node):
    """A syntax tree as nested tuples, less what is empty: newer versions of Python have more fields."""
    if isinstance(node, ast.AST):
        fields = ((name, _filled(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
        return type(node).__name__, *fields
    return tuple(map(_filled, node)) if isinstance(node, list) else node


def circumstances():
    """What a result depends on beside the code: versions, processor, threads, load, date."""
    return {
        "versions": {
            "python": platform.python_version(),
            "siflow_sk": siflow_sk.__version__,
            **{name: metadata.version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")},
            **_installed("torchdiffeq", "zuko", "flow-matching", "POT", "ngboost", "treeffuser"),
        },
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _installed(*names):
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
