import hashlib
import io
import itertools
import math
import sys
import tarfile

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import chi2, multivariate_normal, norm, rice

import siflow_sk.datasets as datasets
from siflow_sk.datasets import _maf


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data folder, with nothing else in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("SIFLOW_DATA", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


# -- tables ------------------------------------------------------------------------------------------------


def test_a_table_is_found_by_name_and_by_path(home, monkeypatch):
    splits = {
        f"x_{name}": np.full((n, 2), n, np.float32) for name, n in (("train", 5), ("val", 3), ("test", 2))
    }
    (home / "uci").mkdir()
    np.savez(home / "uci" / "a.npz", **splits, mu=np.zeros(2))
    by_name = datasets.load_table("a", data_home=home)
    assert {name: by_name[name].shape for name in ("train", "val", "test")} == {
        "train": (5, 2),
        "val": (3, 2),
        "test": (2, 2),
    }
    assert by_name.train.dtype == np.float32
    assert by_name.feature_names == ["x0", "x1"]
    monkeypatch.setenv("SIFLOW_DATA", str(home))
    assert datasets.load_table("a").filename == str(home / "uci" / "a.npz")
    assert datasets.load_table(home / "uci" / "a.npz").test[0, 0] == 2.0


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_frames(home, ending):
    frame = pd.DataFrame({"length": [1.5, 2.5], "count": [3, 4]})
    path = home / f"b.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    table = datasets.load_table("b", data_home=home)
    np.testing.assert_array_equal(table.data, [[1.5, 3.0], [2.5, 4.0]])
    pd.testing.assert_frame_equal(
        datasets.load_table(path, as_frame=True).data, frame.astype({"count": float}), check_names=False
    )


def test_bad_tables(home):
    with pytest.raises(FileNotFoundError, match=r"table 'none': there is no file uci/none or none/none"):
        datasets.load_table("none", data_home=home)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        datasets.load_table(home / "none.csv")
    (home / "c.csv").write_text("a,b\n1,x\n")
    with pytest.raises(ValueError, match="all columns must be numbers, but b are not"):
        datasets.load_table("c", data_home=home)
    (home / "d.txt").write_text("1")
    with pytest.raises(ValueError, match=r"must end in one of \.npz, \.csv, \.parquet"):
        datasets.load_table(home / "d.txt")
    for arrays, message in (
        (
            {"x_train": np.zeros((2, 2))},
            "there is no array x_val, x_test; a table needs",
        ),
        ({"x": np.zeros(3)}, r"must be numbers of shape \(n, d\); it has the shape \(3,\)"),
        (
            {"x_train": np.zeros((2, 2)), "x_val": np.zeros((2, 3)), "x_test": np.zeros((2, 2))},
            "the same columns",
        ),
    ):
        np.savez(home / "e.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            datasets.load_table("e", data_home=home)


# -- the five sets -----------------------------------------------------------------------------------------


def raw_files(root):
    """Small files in the layout of the archive, and their contents."""
    rng = np.random.default_rng(0)
    for folder in ("power", "gas", "hepmass", "miniboone", "BSDS300"):
        (root / folder).mkdir(parents=True)
    power = rng.uniform(size=(200, 8))
    np.save(root / "power" / "data.npy", power)
    miniboone = rng.standard_normal((100, 4))
    np.save(root / "miniboone" / "data.npy", miniboone)
    a, b, c = rng.standard_normal((3, 300))
    # a, its double and a noisy copy go together; minus a stays in spite of its correlation of -1
    gas = {"Time": c, "Meth": c, "Eth": c, "s1": a, "s2": 2 * a + 1, "s3": b, "s4": -a, "s5": a + 1e-3 * b}
    gas = pd.DataFrame(gas)
    gas.to_pickle(root / "gas" / "ethylene_CO.pickle")
    n = 120
    hepmass = rng.standard_normal((n, 3))
    hepmass[:12, 0] = -9.0  # the smallest value in eight rows of class 1: goes
    hepmass[:50, 1] = 9.0  # another one in 33 of them: stays
    label = np.arange(n) % 3 != 0
    for name, extra in (("train", 0), ("test", 1)):
        frame = pd.DataFrame(hepmass, columns=["f0", "f1", "f2"])
        frame.insert(0, "# label", label.astype(float))
        for _ in range(extra):
            frame["mass"] = 1000.0
        frame.to_csv(root / "hepmass" / f"1000_{name}.csv", index=False)
    sizes = {"train": 9, "validation": 4, "test": 5}
    bsds300 = {name: rng.uniform(size=(k, 63)).astype("f4") for name, k in sizes.items()}
    with h5py.File(root / "BSDS300" / "BSDS300.hdf5", "w") as file:
        for name, rows in bsds300.items():
            file[name] = rows
    return {
        "power": power,
        "miniboone": miniboone,
        "gas": gas,
        "hepmass": (hepmass, label),
        "bsds300": bsds300,
    }


@pytest.fixture
def raw(home, monkeypatch):
    shapes = {
        "power": (162, 18, 20, 6),
        "gas": (243, 27, 30, 3),
        "hepmass": (72, 8, 80, 2),
        "miniboone": (81, 9, 10, 4),
        "bsds300": (9, 4, 5, 63),
    }
    monkeypatch.setattr(_maf, "SHAPES", shapes)
    return raw_files(home / "data")


def test_power(home, raw):
    found = datasets.fetch_power(data_home=home)
    # each row keeps its own values, so undo the steps: RandomState's order, then the noise in its bounds
    rng = np.random.RandomState(42)
    order = rng.permutation(200)  # shuffle of the rows draws the same numbers
    clean = raw["power"][order][:, [0, 2, 4, 5, 6, 7]]
    voltage, active, meters = rng.rand(200), rng.rand(200), rng.rand(200, 3)
    noisy = clean + np.column_stack([0.001 * active, 0.01 * voltage, meters, np.zeros(200)])
    mean, scale = noisy[:180].mean(0), noisy[:180].std(0)
    expected = ((noisy - mean) / scale).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([found.train, found.val, found.test]), expected)
    assert found.feature_names[-1] == "minute_of_day"
    assert found.DESCR.startswith("POWER: ")


def test_miniboone(home, raw):
    found = datasets.fetch_miniboone(data_home=home)
    assert found.train.dtype == np.float32
    both = np.concatenate([found.train, found.val])
    np.testing.assert_allclose(both.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(both.std(0), 1.0, rtol=1e-6)
    both = raw["miniboone"][:90]
    np.testing.assert_allclose(found.test, (raw["miniboone"][90:] - both.mean(0)) / both.std(0), rtol=1e-5)


def test_gas(home, raw):
    found = datasets.fetch_gas(data_home=home, as_frame=True)
    assert found.feature_names == ["s3", "s4", "s5"]
    kept = raw["gas"][found.feature_names]
    expected = (kept - kept.mean()) / kept.std(ddof=1)
    joined = pd.concat([found.train, found.val, found.test], ignore_index=True)
    np.testing.assert_allclose(joined, expected, rtol=1e-5, atol=1e-6)


def test_hepmass(home, raw):
    found = datasets.fetch_hepmass(data_home=home)
    assert found.feature_names == ["f1", "f2"]
    rows, signal = raw["hepmass"]
    kept = rows[signal][:, 1:]
    expected = (kept - kept.mean(0)) / kept.std(0, ddof=1)
    np.testing.assert_allclose(np.concatenate([found.train, found.val]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.test, expected, rtol=1e-5, atol=1e-6)


def test_bsds300(home, raw, monkeypatch):
    found = datasets.fetch_bsds300(data_home=home)
    np.testing.assert_array_equal(found.val, raw["bsds300"]["validation"])
    assert found.feature_names[9] == "pixel_1_1"
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'needs h5py; install it with the extra "data"'):
        datasets.fetch_bsds300(data_home=home)


def packed(home, monkeypatch):
    """The raw files in an archive in place of the folder; returns its path."""
    archive = home / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home / "data", "data")
        unwanted = tarfile.TarInfo("data/mnist/mnist.pkl")
        tar.addfile(unwanted, io.BytesIO())
    (home / "data").rename(home.parent / "elsewhere")
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(_maf, "MD5", digest)
    return archive


def test_the_archive_is_unpacked_once_and_checked(home, raw, monkeypatch):
    archive = packed(home, monkeypatch)
    found = datasets.fetch_miniboone(data_home=home)
    assert sorted(p.name for p in (home / "data").iterdir()) == ["miniboone"]
    archive.unlink()
    np.testing.assert_array_equal(datasets.fetch_miniboone(data_home=home).train, found.train)
    archive.write_bytes(b"not it")
    with pytest.raises(ValueError, match=r"data.tar.gz is not the archive of https://zenodo.org/.*MD5"):
        datasets.fetch_power(data_home=home)


def test_fetching(home, raw, monkeypatch):
    import pooch

    archive = packed(home, monkeypatch)
    served = archive.rename(home.parent / "served.tar.gz")
    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash))
        (path / fname).write_bytes(served.read_bytes())

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert datasets.fetch_hepmass(data_home=home).train.shape == (72, 2)
    assert calls == [("https://zenodo.org/records/1161203/files/data.tar.gz", f"md5:{_maf.MD5}")]
    assert datasets.fetch_gas(data_home=home).train.shape == (243, 3)
    assert len(calls) == 1


def test_messages_without_file_or_network(home, monkeypatch):
    import pooch

    by_hand = (
        "The set 'hepmass' is hepmass/1000_train.csv and hepmass/1000_test.csv of data.tar.gz at "
        "https://zenodo.org/records/1161203/files/data.tar.gz. To place it by hand, put data.tar.gz, or what "
        f"it unpacks to, into the folder {home}"
    )
    with pytest.raises(FileNotFoundError) as error:
        datasets.fetch_hepmass(data_home=home, download_if_missing=False)
    assert by_hand in str(error.value)

    def retrieve(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"could not be fetched \(no route\)") as error:
        datasets.fetch_hepmass(data_home=home)
    assert by_hand in str(error.value)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"downloading needs pooch; install it with the extra") as error:
        datasets.fetch_hepmass(data_home=home)
    assert by_hand in str(error.value)


def test_other_files_are_refused(home):
    raw_files(home)
    with pytest.raises(
        ValueError, match=r"'miniboone' must have \(29556, 3284, 3648, 43\) .* has \(81, 9, 10, 4\)"
    ):
        datasets.fetch_miniboone(data_home=home)


# -- densities in the plane --------------------------------------------------------------------------------

DENSITIES = {
    "checkerboard": datasets.Checkerboard,
    "eight_gaussians": datasets.EightGaussians,
    "moons": datasets.Moons,
    "spirals": datasets.Spirals,
    "pinwheel": datasets.Pinwheel,
    "rings": datasets.Rings,
}


def on_grid(density, low, high, n):
    """Density at the middles of n x n cells, and the area of a cell."""
    width = (high - low) / n
    middles = low + width * (np.arange(n) + 0.5)
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.exp(density.score_samples(grid)).reshape(n, n), width**2


# noise of 0.2 is wide enough for the midpoint rule on cells of 0.125, and keeps the test short
@pytest.mark.parametrize("name", DENSITIES)
def test_density_is_normalised_and_is_that_of_the_rows(name):
    smooth = {"moons": {"noise": 0.2}, "spirals": {"noise": 0.2}, "rings": {"noise": 0.2}}
    smooth["pinwheel"] = {"tangential_noise": 0.2}
    density = DENSITIES[name](**smooth.get(name, {}))
    values, area = on_grid(density, -6.0, 6.0, 96)
    assert abs(values.sum() * area - 1.0) < 1e-6
    # chi-square over cells of 0.75 x 0.75; false alarm with probability 1e-6
    X = density.sample(20_000, random_state=0)
    expected = 20_000 * area * values.reshape(16, 6, 16, 6).sum(axis=(1, 3))
    counts = np.histogram2d(*X.T, bins=16, range=[[-6, 6], [-6, 6]])[0]
    enough = expected > 5
    observed, wanted = [*counts[enough], counts[~enough].sum()], [*expected[enough], expected[~enough].sum()]
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, wanted, strict=True) if e > 0)
    assert statistic < chi2(len(wanted) - 1).isf(1e-6)
    assert counts[expected < 1e-9].sum() == 0


@pytest.mark.parametrize("name", DENSITIES)
def test_make_draws_from_the_class(name):
    make = getattr(datasets, f"make_{name}")
    X = make(50, random_state=3)
    np.testing.assert_array_equal(X, DENSITIES[name]().sample(50, random_state=3))
    assert X.shape == (50, 2)
    assert not np.array_equal(X, make(50, random_state=4))
    assert np.isfinite(DENSITIES[name]().score_samples(X)).all()
    assert DENSITIES[name]().score(X) == pytest.approx(DENSITIES[name]().score_samples(X).mean())


def line_integral(x, curves, weight, noise):
    def integrand(u):
        exponents = [-((x[0] - a) ** 2 + (x[1] - b) ** 2) / (2 * noise**2) for a, b in curves(u)]
        return weight(u) * sum(map(math.exp, exponents)) / (4 * math.pi * noise**2)

    pieces = np.linspace(0.0, 1.0, 41)
    parts = (quad(integrand, *ends, epsabs=0, epsrel=1e-12)[0] for ends in itertools.pairwise(pieces))
    return math.fsum(parts)


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_line_integrals(name):
    def moons(u):
        c, s = math.cos(math.pi * u), math.sin(math.pi * u)
        return (c, s), (1 - c, 0.5 - s)

    def spirals(u):
        a, b = 3 * u * math.cos(3 * math.pi * u), 3 * u * math.sin(3 * math.pi * u)
        return (a, b), (-a, -b)

    curves, weight = (moons, lambda u: 1.0) if name == "moons" else (spirals, lambda u: 2 * u)
    density = DENSITIES[name]()
    # on the curves, near them, and so far away that panels are refined
    X = np.concatenate([density.sample(4, 0), [[0.0, 0.0], [2.5, -0.5], [-1.0, 3.5], [0.1, 4.6]]])
    exact = [math.log(line_integral(x, curves, weight, 0.1)) for x in X]
    np.testing.assert_allclose(density.score_samples(X), exact, rtol=0, atol=1e-10)


def test_far_rows_decay_like_the_nearest_point():
    # in the direction of the nearest point of the curve the log-density is -D^2 / 2 noise^2 + O(log D)
    value = datasets.Moons().score_samples([[0.0, 1001.0], [0.0, 2.0], [0.0, 1.0]])
    assert value[0] == pytest.approx(-(1000.0**2) / 0.02, rel=1e-6)
    np.testing.assert_allclose(datasets.Moons().score_samples([[0.0, 2.0]]), value[1:2], rtol=1e-12)


def test_closed_forms():
    x = np.random.default_rng(0).uniform(-3, 3, (200, 2))
    centres = 2.0 * np.array([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
    mixture = sum(multivariate_normal(c, 0.04).pdf(x) for c in centres) / 8
    np.testing.assert_allclose(np.exp(datasets.EightGaussians().score_samples(x)), mixture, rtol=1e-9)
    # the distance from the origin of a ring's point has Rice's distribution
    r = np.hypot(*x.T)
    rings = sum(rice(k / 0.1, scale=0.1).pdf(r) for k in (1, 2, 3)) / 3 / (2 * math.pi * r)
    np.testing.assert_allclose(np.exp(datasets.Rings().score_samples(x)), rings, rtol=1e-8, atol=1e-300)
    # without twist a pinwheel of two arms is a mixture of two stretched Gaussians
    plain = datasets.Pinwheel(n_arms=2, twist=0.0)
    arms = sum(norm(s * 2.0, 0.6).pdf(x[:, 0]) for s in (1, -1)) * norm(0, 0.15).pdf(x[:, 1]) / 2
    np.testing.assert_allclose(np.exp(plain.score_samples(x)), arms, rtol=1e-9)
    # the twist turns every circle around the origin by the twist times its radius
    angle = np.arctan2(x[:, 1], x[:, 0]) + 0.6 * r
    turned = np.column_stack([r * np.cos(angle), r * np.sin(angle)])
    straight = datasets.Pinwheel(twist=0.0).score_samples(x)
    np.testing.assert_allclose(datasets.Pinwheel(twist=0.6).score_samples(turned), straight, rtol=1e-9)
    np.testing.assert_array_equal(
        datasets.Checkerboard().score_samples([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [4.5, 4.5]]),
        [-math.log(32), -math.inf, -math.log(32), -math.inf],
    )


def test_bad_arguments_of_densities():
    with pytest.raises(ValueError, match="noise must be greater than zero, got 0"):
        datasets.Moons(noise=0)
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        datasets.make_rings(0)
    with pytest.raises(ValueError, match="X must have 2 columns, got 3"):
        datasets.Rings().score_samples(np.zeros((1, 3)))
    assert repr(datasets.Moons(0.2)) == "Moons(noise=0.2)"
