"""The five benchmark sets of Masked Autoregressive Flow, prepared exactly as there.

The steps are those of its code (``gpapamak/maf``), oddities included: published log-densities are in
the units that they make.
"""

import hashlib
import inspect
import tarfile
import warnings

import numpy as np
import pandas as pd

from ._files import bunch, data_folders, download_home, need, plain_names

URL = "https://zenodo.org/records/1161203/files/data.tar.gz"
ARCHIVE = "data.tar.gz"
MD5 = "9b9c9b0375315ad270eba4ce80c093ab"
_INSIDE = "data"  # the archive's own folder

# rows of train, val, test, and columns
SHAPES = {
    "power": (1_659_917, 184_435, 204_928, 6),
    "gas": (852_174, 94_685, 105_206, 8),
    "hepmass": (315_123, 35_013, 174_987, 21),
    "miniboone": (29_556, 3_284, 3_648, 43),
    "bsds300": (1_000_000, 50_000, 250_000, 63),
}
FILES = {
    "power": ("power/data.npy",),
    "gas": ("gas/ethylene_CO.pickle",),
    "hepmass": ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
    "miniboone": ("miniboone/data.npy",),
    "bsds300": ("BSDS300/BSDS300.hdf5",),
}


# -- the steps of each set ---------------------------------------------------------------------------------


def _tenths(rows):
    """The last tenth for testing, the last tenth of the rest for validation."""
    n_test = int(0.1 * len(rows))
    rest, test = rows[:-n_test], rows[-n_test:]
    n_val = int(0.1 * len(rest))
    return rest[:-n_val], rest[-n_val:], test


def _standardised(train, val, test):
    """By mean and standard deviation (ddof = 0) of training and validation rows together."""
    both = np.vstack([train, val])
    mean, scale = both.mean(axis=0), both.std(axis=0)
    return tuple((rows - mean) / scale for rows in (train, val, test))


def _power(path):
    rng = np.random.RandomState(42)
    rows = np.load(path)
    rng.shuffle(rows)
    rows = np.delete(rows, [1, 3], axis=1)
    n = len(rows)
    # drawn in this order, not in that of the columns; the minute of the day gets no noise
    voltage, active_power, metering = 0.01 * rng.rand(n, 1), 0.001 * rng.rand(n, 1), rng.rand(n, 3)
    rows = rows + np.hstack([active_power, voltage, metering, np.zeros((n, 1))])
    names = ["global_active_power", "voltage", *(f"sub_metering_{i}" for i in (1, 2, 3)), "minute_of_day"]
    return _standardised(*_tenths(rows)), names


def _gas(path):
    frame = pd.read_pickle(path).drop(columns=["Meth", "Eth", "Time"])
    close = (frame.corr() > 0.98).to_numpy()  # signed: strong negative correlation stays
    keep = np.arange(close.shape[1])
    while (crowded := close[np.ix_(keep, keep)].sum(axis=1) > 1).any():
        keep = np.delete(keep, crowded.argmax())
    frame = frame.iloc[:, keep]
    frame = (frame - frame.mean()) / frame.std()  # of all rows, those for testing too
    return _tenths(frame.to_numpy()), map(str, frame.columns)


def _hepmass(train_path, test_path):
    with warnings.catch_warnings():
        # rows of a file may be longer than its header
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        train, test = (pd.read_csv(path, index_col=False) for path in (train_path, test_path))
    train, test = (frame[frame.iloc[:, 0] == 1].iloc[:, 1:] for frame in (train, test))
    test = test.iloc[:, :-1]  # the test file has one column more
    mean, scale = train.mean().to_numpy(), train.std().to_numpy()
    names = train.columns
    train, test = ((frame.to_numpy() - mean) / scale for frame in (train, test))
    # meant to drop columns with a value that occurs more than five times, but it counts the smallest alone
    keep = (train == train.min(axis=0)).sum(axis=0) <= 5
    train, test = train[:, keep], test[:, keep]
    n_val = int(0.1 * len(train))
    return (train[:-n_val], train[-n_val:], test), map(str, names[keep])


def _miniboone(path):
    parts = _standardised(*_tenths(np.load(path)))
    return parts, plain_names(parts[0].shape[1])


def _bsds300(path):
    h5py = need("h5py", f"reading {path}")
    with h5py.File(path, "r") as stored:
        parts = tuple(stored[split][:] for split in ("train", "validation", "test"))
    return parts, [f"pixel_{i // 8}_{i % 8}" for i in range(parts[0].shape[1])]


_READERS = {"power": _power, "gas": _gas, "hepmass": _hepmass, "miniboone": _miniboone, "bsds300": _bsds300}


# -- finding and fetching ----------------------------------------------------------------------------------


def stored(name, data_home):
    """Paths of a set's files, or None where no folder has them all."""
    for folder in data_folders(data_home):
        for root in (folder, folder / _INSIDE):
            paths = [root / file for file in FILES[name]]
            if all(path.is_file() for path in paths):
                return paths
    return None


def _unpacked(name, data_home):
    """Take a set's files out of an archive that lies in one of the folders; None where there is none."""
    for folder in data_folders(data_home):
        archive = folder / ARCHIVE
        if archive.is_file():
            with archive.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != MD5:
                raise ValueError(
                    f"{archive} is not the archive of {URL}: its MD5 is {found} instead of {MD5}. "
                    "Delete it and fetch it again."
                )
            home = download_home(data_home)
            with tarfile.open(archive) as tar:
                for file in FILES[name]:
                    tar.extract(f"{_INSIDE}/{file}", home, filter="data")
            return [home / _INSIDE / file for file in FILES[name]]
    return None


def _by_hand(name, data_home):
    files = " and ".join(FILES[name])
    return (
        f"The set {name!r} is {files} of {ARCHIVE} at {URL}. To place it by hand, put {ARCHIVE}, or what it "
        f"unpacks to, into the folder {download_home(data_home)} (or name another one with data_home or the "
        "environment variable SIFLOW_DATA)."
    )


def _download(name, data_home):
    try:
        pooch = need("pooch", "downloading")
    except ImportError as error:
        raise ImportError(f"{error} {_by_hand(name, data_home)}") from error
    try:
        pooch.retrieve(URL, known_hash=f"md5:{MD5}", fname=ARCHIVE, path=download_home(data_home))
    except OSError as error:
        raise OSError(f"{URL} could not be fetched ({error}). {_by_hand(name, data_home)}") from error


def _fetch(function, data_home, download_if_missing, as_frame):
    name = function.__name__.removeprefix("fetch_")
    paths = stored(name, data_home) or _unpacked(name, data_home)
    if paths is None:
        if not download_if_missing:
            looked = ", ".join(map(str, data_folders(data_home)))
            raise FileNotFoundError(f"looked for in {looked}: not there. {_by_hand(name, data_home)}")
        _download(name, data_home)
        paths = _unpacked(name, data_home)
    parts, names = _READERS[name](*paths)
    found = (*map(len, parts), parts[0].shape[1])
    if found != SHAPES[name]:
        raise ValueError(
            f"{', '.join(map(str, paths))}: the set {name!r} must have {SHAPES[name]} rows of train, val and "
            f"test and columns after its preparation; this has {found}. {_by_hand(name, data_home)}"
        )
    parts = dict(zip(("train", "val", "test"), (rows.astype(np.float32) for rows in parts), strict=True))
    return bunch(parts, names, inspect.getdoc(function), as_frame)


# -- the five functions ------------------------------------------------------------------------------------


def fetch_power(*, data_home=None, download_if_missing=True, as_frame=False):
    """POWER: electric power consumption of one household, minute by minute over four years.

    Prepared as in [1]_. Rows are shuffled by ``RandomState(42)``; reactive power and intensity are dropped;
    uniform noise of the width of one digit is added to active power (0.001), voltage (0.01) and the meters
    (1), not to the minute of the day; the last tenth is for testing, the last tenth of the rest for
    validation; columns are standardised by training and validation rows.

    Read from power/data.npy, where found; else out of the archive ``data.tar.gz``, where found; else that
    archive, which holds all five sets, is fetched once [2]_. Checked are its MD5, and the numbers of rows and
    columns after the preparation.

    Parameters
    ----------
    data_home : path-like, default=None
        First folder to look in (itself, and ``data`` in it), before that of the environment variable
        ``SIFLOW_DATA``, ``../shared/data`` and ``~/siflow_sk_data``; and the folder to fetch to, by
        default ``SIFLOW_DATA``, else ``~/siflow_sk_data``.
    download_if_missing : bool, default=True
        Whether to fetch what is not there, rather than to raise an error.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    power : :class:`~sklearn.utils.Bunch`
        ``train`` (1,659,917 x 6), ``val`` (184,435 x 6), ``test`` (204,928 x 6), float32;
        ``feature_names``; ``DESCR``.

    Raises
    ------
    OSError
        The files are not there and not to be had; the message says how to place them by hand.
    ValueError
        The files are not those of the benchmark.
    ImportError
        pooch is needed and missing; the extra ``data`` installs it.

    References
    ----------
    .. [1] G. Papamakarios, T. Pavlakou, I. Murray, *Masked Autoregressive Flow for Density Estimation*,
       NeurIPS 2017, appendix D.
    .. [2] https://doi.org/10.5281/zenodo.1161203
    """
    return _fetch(fetch_power, data_home, download_if_missing, as_frame)


def fetch_gas(*, data_home=None, download_if_missing=True, as_frame=False):
    """GAS: sixteen chemical sensors in a mixture of ethylene and carbon monoxide.

    Prepared as in [1]_. The time and the two concentrations are dropped, then, from the left, sensors whose
    correlation with another one left exceeds 0.98; columns are standardised by all rows, those for testing
    too; the last tenth is for testing, the last tenth of the rest for validation. Rows keep their order in
    time: the test rows are the end of the experiment.

    Read from gas/ethylene_CO.pickle, where found; else out of the archive ``data.tar.gz``, where found; else
    that archive, which holds all five sets, is fetched once [2]_. Checked are its MD5, and the numbers of
    rows and columns after the preparation.

    The file is a pickle: unpickling runs code, so take it from the archive only.

    Parameters
    ----------
    data_home : path-like, default=None
        First folder to look in (itself, and ``data`` in it), before that of the environment variable
        ``SIFLOW_DATA``, ``../shared/data`` and ``~/siflow_sk_data``; and the folder to fetch to, by
        default ``SIFLOW_DATA``, else ``~/siflow_sk_data``.
    download_if_missing : bool, default=True
        Whether to fetch what is not there, rather than to raise an error.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    gas : :class:`~sklearn.utils.Bunch`
        ``train`` (852,174 x 8), ``val`` (94,685 x 8), ``test`` (105,206 x 8), float32;
        ``feature_names``; ``DESCR``.

    Raises
    ------
    OSError
        The files are not there and not to be had; the message says how to place them by hand.
    ValueError
        The files are not those of the benchmark.
    ImportError
        pooch is needed and missing; the extra ``data`` installs it.

    References
    ----------
    .. [1] G. Papamakarios, T. Pavlakou, I. Murray, *Masked Autoregressive Flow for Density Estimation*,
       NeurIPS 2017, appendix D.
    .. [2] https://doi.org/10.5281/zenodo.1161203
    """
    return _fetch(fetch_gas, data_home, download_if_missing, as_frame)


def fetch_hepmass(*, data_home=None, download_if_missing=True, as_frame=False):
    """HEPMASS: simulated collisions that make a particle of mass 1000, signal only.

    Prepared as in [1]_. Rows of class 1 of the files for training and testing; columns are standardised by
    the former; columns whose smallest training value occurs more than five times are dropped (meant was: with
    any such value; the count of the smallest one decides, which keeps 21); the last tenth of the training
    rows is for validation.

    Read from hepmass/1000_train.csv and hepmass/1000_test.csv, where found; else out of the archive
    ``data.tar.gz``, where found; else that archive, which holds all five sets, is fetched once [2]_. Checked
    are its MD5, and the numbers of rows and columns after the preparation.

    Parameters
    ----------
    data_home : path-like, default=None
        First folder to look in (itself, and ``data`` in it), before that of the environment variable
        ``SIFLOW_DATA``, ``../shared/data`` and ``~/siflow_sk_data``; and the folder to fetch to, by
        default ``SIFLOW_DATA``, else ``~/siflow_sk_data``.
    download_if_missing : bool, default=True
        Whether to fetch what is not there, rather than to raise an error.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    hepmass : :class:`~sklearn.utils.Bunch`
        ``train`` (315,123 x 21), ``val`` (35,013 x 21), ``test`` (174,987 x 21), float32;
        ``feature_names``; ``DESCR``.

    Raises
    ------
    OSError
        The files are not there and not to be had; the message says how to place them by hand.
    ValueError
        The files are not those of the benchmark.
    ImportError
        pooch is needed and missing; the extra ``data`` installs it.

    References
    ----------
    .. [1] G. Papamakarios, T. Pavlakou, I. Murray, *Masked Autoregressive Flow for Density Estimation*,
       NeurIPS 2017, appendix D.
    .. [2] https://doi.org/10.5281/zenodo.1161203
    """
    return _fetch(fetch_hepmass, data_home, download_if_missing, as_frame)


def fetch_miniboone(*, data_home=None, download_if_missing=True, as_frame=False):
    """MINIBOONE: neutrino events of one class, as filtered by the authors of MAF.

    Prepared as in [1]_. The last tenth is for testing, the last tenth of the rest for validation; columns are
    standardised by training and validation rows. With 3,648 test rows a mean log-density is known to about
    0.2 nats.

    Read from miniboone/data.npy, where found; else out of the archive ``data.tar.gz``, where found; else that
    archive, which holds all five sets, is fetched once [2]_. Checked are its MD5, and the numbers of rows and
    columns after the preparation.

    Parameters
    ----------
    data_home : path-like, default=None
        First folder to look in (itself, and ``data`` in it), before that of the environment variable
        ``SIFLOW_DATA``, ``../shared/data`` and ``~/siflow_sk_data``; and the folder to fetch to, by
        default ``SIFLOW_DATA``, else ``~/siflow_sk_data``.
    download_if_missing : bool, default=True
        Whether to fetch what is not there, rather than to raise an error.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    miniboone : :class:`~sklearn.utils.Bunch`
        ``train`` (29,556 x 43), ``val`` (3,284 x 43), ``test`` (3,648 x 43), float32;
        ``feature_names``; ``DESCR``.

    Raises
    ------
    OSError
        The files are not there and not to be had; the message says how to place them by hand.
    ValueError
        The files are not those of the benchmark.
    ImportError
        pooch is needed and missing; the extra ``data`` installs it.

    References
    ----------
    .. [1] G. Papamakarios, T. Pavlakou, I. Murray, *Masked Autoregressive Flow for Density Estimation*,
       NeurIPS 2017, appendix D.
    .. [2] https://doi.org/10.5281/zenodo.1161203
    """
    return _fetch(fetch_miniboone, data_home, download_if_missing, as_frame)


def fetch_bsds300(*, data_home=None, download_if_missing=True, as_frame=False):
    """BSDS300: 8 x 8 patches of natural images without their mean and their last pixel.

    Prepared as in [1]_. As stored: dequantised grey values in [0, 1], less the mean of the patch; not
    standardised, so the log-densities are high.

    Read from BSDS300/BSDS300.hdf5, where found; else out of the archive ``data.tar.gz``, where found; else
    that archive, which holds all five sets, is fetched once [2]_. Checked are its MD5, and the numbers of
    rows and columns after the preparation.

    Parameters
    ----------
    data_home : path-like, default=None
        First folder to look in (itself, and ``data`` in it), before that of the environment variable
        ``SIFLOW_DATA``, ``../shared/data`` and ``~/siflow_sk_data``; and the folder to fetch to, by
        default ``SIFLOW_DATA``, else ``~/siflow_sk_data``.
    download_if_missing : bool, default=True
        Whether to fetch what is not there, rather than to raise an error.
    as_frame : bool, default=False
        DataFrames in place of arrays.

    Returns
    -------
    bsds300 : :class:`~sklearn.utils.Bunch`
        ``train`` (1,000,000 x 63), ``val`` (50,000 x 63), ``test`` (250,000 x 63), float32;
        ``feature_names``; ``DESCR``.

    Raises
    ------
    OSError
        The files are not there and not to be had; the message says how to place them by hand.
    ValueError
        The files are not those of the benchmark.
    ImportError
        pooch or h5py is needed and missing; the extra ``data`` installs both.

    References
    ----------
    .. [1] G. Papamakarios, T. Pavlakou, I. Murray, *Masked Autoregressive Flow for Density Estimation*,
       NeurIPS 2017, appendix D.
    .. [2] https://doi.org/10.5281/zenodo.1161203
    """
    return _fetch(fetch_bsds300, data_home, download_if_missing, as_frame)
