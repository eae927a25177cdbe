"""Where data are looked for, and tables in files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

SPLITS = ("train", "val", "test")
_ENDINGS = (".npz", ".csv", ".parquet")
_DEFAULT_HOME = Path("~", "siflow_sk_data")


def download_home(data_home=None):
    """Folder that downloads go to: ``data_home``, else ``SIFLOW_DATA``, else ``~/siflow_sk_data``."""
    return Path(data_home or os.environ.get("SIFLOW_DATA") or _DEFAULT_HOME).expanduser()


def data_folders(data_home=None):
    """Where data are looked for: ``data_home``, ``SIFLOW_DATA``, ``../shared/data``, ``~/siflow_sk_data``."""
    named = (data_home, os.environ.get("SIFLOW_DATA"), Path("..", "shared", "data"), _DEFAULT_HOME)
    return [Path(folder).expanduser() for folder in named if folder]


def find_table(name, data_home=None):
    """Path of the file that holds the table ``name``.

    Raises
    ------
    FileNotFoundError
        The file is in none of the folders; the message says which file and where it was looked for.
    """
    stems = (Path("uci", name), Path(name, name), Path(name))
    folders = data_folders(data_home)
    for folder in folders:
        for stem in stems:
            for ending in _ENDINGS:
                path = folder / stem.with_name(name + ending)
                if path.is_file():
                    return path
    raise FileNotFoundError(
        f"table {name!r}: there is no file {' or '.join(stem.as_posix() for stem in stems)} with the ending "
        f"{' or '.join(_ENDINGS)} in {', '.join(map(str, folders))}. Name the folder that holds it with "
        "data_home (--data on a command line) or the environment variable SIFLOW_DATA."
    )


def load_table(name_or_path, *, data_home=None, as_frame=False):
    r"""Load a table of numbers from a npz, csv or parquet file.

    Parameters
    ----------
    name_or_path : str or path-like
        A file, recognised by its ending, or the name of one without folder and ending, such as
        ``"protein"``.  A name is looked for as ``uci/NAME``, ``NAME/NAME`` and ``NAME``, each with the
        endings npz, csv and parquet, in ``data_home``, in the folder that the environment variable
        ``SIFLOW_DATA`` names, in ``../shared/data`` and in ``~/siflow_sk_data``.
    data_home : path-like, default=None
        First folder to look for a name in.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        ``train``, ``val`` and ``test`` where a npz file holds ``x_train``, ``x_val`` and ``x_test``;
        otherwise ``data``: the only array of a npz file, the rows of a csv or parquet file.
        ``(n, d)`` each, with the dtype of the file.  ``feature_names`` is a list of ``d`` names (from
        the file, or ``x0``, ``x1``, ...), ``filename`` the file, ``DESCR`` one line about it.

    Raises
    ------
    FileNotFoundError
        There is no such file; the message says where it was looked for.
    ValueError
        Another ending, an array of other than two dimensions, columns that are not numbers, a npz file
        without the three splits and with more than one array.
    ImportError
        A parquet file without pyarrow, which the extra ``data`` installs.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from siflow_sk.datasets import load_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "weather.csv").write_text("warmth,rain\n20.5,0\n17,3.2\n")
    ...     table = load_table("weather", data_home=folder)
    >>> table.data
    array([[20.5,  0. ],
           [17. ,  3.2]])
    >>> table.feature_names
    ['warmth', 'rain']
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in _ENDINGS:
        if path.suffix and path.is_file():
            raise ValueError(
                f"name_or_path: {path} must end in one of {', '.join(_ENDINGS)}. Convert it, for example "
                "with DataFrame.to_csv."
            )
        path = find_table(str(name_or_path), data_home)
    elif not path.is_file():
        raise FileNotFoundError(f"name_or_path: there is no file {path}.")
    read = {".npz": _read_npz, ".csv": _read_frame, ".parquet": _read_frame}[path.suffix]
    parts, names = read(path)
    return bunch(parts, names, f"Table of {path.name}.", as_frame, filename=str(path))


def bunch(parts, names, description, as_frame, **more):
    """``parts`` (name -> (n, d) array) with what belongs to them."""
    names = list(names)
    if as_frame:
        parts = {key: pd.DataFrame(rows, columns=names) for key, rows in parts.items()}
    return Bunch(**parts, feature_names=names, DESCR=description, **more)


def plain_names(d):
    """``x0``, ``x1``, ..., the names that scikit-learn gives to columns without one."""
    return [f"x{j}" for j in range(d)]


def _read_npz(path):
    with np.load(path) as stored:
        found = [split for split in SPLITS if f"x_{split}" in stored]
        if len(found) == len(SPLITS):
            parts = {split: stored[f"x_{split}"] for split in SPLITS}
        elif not found and len(stored.files) == 1:
            parts = {"data": stored[stored.files[0]]}
        else:
            missing = ", ".join(f"x_{split}" for split in SPLITS if split not in found)
            raise ValueError(
                f"{path}: there is no array {missing}; a table needs x_train, x_val and x_test, or one array "
                f"alone, and this file has {', '.join(stored.files) or 'none'}."
            )
    for key, rows in parts.items():
        if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.number):
            raise ValueError(
                f"{path}: the array of {key} must be numbers of shape (n, d); it has the shape "
                f"{rows.shape} and the dtype {rows.dtype}."
            )
    widths = {rows.shape[1] for rows in parts.values()}
    if len(widths) > 1:
        raise ValueError(f"{path}: the three splits must have the same columns; they have {sorted(widths)}.")
    return parts, plain_names(widths.pop())


def _read_frame(path):
    if path.suffix == ".csv":
        frame = pd.read_csv(path)
    else:
        need("pyarrow", f"reading {path}")
        frame = pd.read_parquet(path, engine="pyarrow")
    wrong = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise ValueError(
            f"{path}: all columns must be numbers, but {', '.join(wrong)} are not. Encode or drop them first."
        )
    return {"data": frame.to_numpy()}, map(str, frame.columns)


def need(module, what):
    """Import an optional module.

    Raises
    ------
    ImportError
        With the command that installs it.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(
            f'{what} needs {module}; install it with the extra "data": pip install "siflow_sk[data]".'
        ) from error
