"""Models in files: what goes in comes out to the bit, and what is not a sound file is refused by name."""

import errno
import gzip
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import fuzz_load
import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from conftest import quick
from discovery import all_estimators, configured
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import Binarizer, PowerTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted

import siflow_sk
from siflow_sk import ConditionalInterpolantFlow, InterpolantFlow, InterpolantSearchCV, make_density_pipeline
from siflow_sk.bases import Base, Gaussian, SklearnDensity
from siflow_sk.exceptions import DeviceWarning, VersionWarning
from siflow_sk.interpolants import Interpolant, WithNoise
from siflow_sk.persistence import _container, _registry, register
from siflow_sk.solvers import DormandPrince, TorchDiffEq
from siflow_sk.velocities import MLP, ResidualMLP, Velocity

DATA = Path(__file__).parent / "data"


# -- parts of a user's own ---------------------------------------------------------------------------------


@register
class Cubic(Interpolant):
    def alpha(self, t):
        return (1.0 - t) ** 3

    def beta(self, t):
        return 1.0 - (1.0 - t) ** 3


@register
class Shifted(Base):
    """A base with a fitted tensor, an array in Fortran order and itself under another name."""

    def fit(self, x, generator):
        self.mean_, self.table_, self.again_ = x.mean(0), np.asfortranarray(x.numpy()[:4]), self
        self.flipped_ = x[:4].T
        return super().fit(x, generator)

    def log_prob(self, x):
        return -0.5 * ((x - self.mean_.to(x)) ** 2).sum(1)

    def sample(self, n, generator):
        return self.mean_ + self._noise(torch.randn, n, generator)


@register
class Network(torch.nn.Module):
    def __init__(self, d):
        super().__init__()
        first, last = (torch.nn.utils.skip_init(torch.nn.Linear, *sizes) for sizes in ((d, 8), (8, d)))
        self.layers = torch.nn.Sequential(first, torch.nn.Tanh(), last)
        self.register_buffer("factor", torch.tensor(0.1))
        self.register_buffer("passing", None, persistent=False)

    def forward(self, t, x):
        return self.factor * self.layers(x) * t


@register
class Small(Velocity):
    def build(self, n_features, generator):
        network = Network(n_features)
        for p in network.parameters():
            torch.nn.init.uniform_(p, -0.5, 0.5, generator=generator)
        return network


class Unregistered(Interpolant):
    pass


def mixture():
    weights = torch.distributions.Categorical(torch.tensor([0.3, 0.7]))
    normal = torch.distributions.Normal(torch.zeros(2, 2), torch.ones(2, 2))
    parts = torch.distributions.Independent(normal, 1)
    return torch.distributions.MixtureSameFamily(weights, parts)


CONFIGURATIONS = {
    "default": {"preprocessor": "gaussianize"},
    "single precision": {"inference_dtype": "float32", "preprocessor": "standardize"},
    "gaussian, adaptive": {"base": Gaussian(), "preprocessor": "whiten", "solver": DormandPrince()},
    "heavy tails, none": {"base": "student_t", "preprocessor": "none", "interpolant": "linear"},
    "noise": {"interpolant": WithNoise("linear", gamma="sin2"), "base": "gaussian"},
    "residual": {"velocity": ResidualMLP(width=8, depth=1, divergence="hutchinson"), "polish": 0},
    "mixture": {"base": GaussianMixture(2, covariance_type="full")},
    "kernel": {"base": KernelDensity(algorithm="ball_tree", leaf_size=5)},
    "frozen": {"base": SklearnDensity(FrozenEstimator(GaussianMixture(2)))},
    "flow": {"base": quick(max_iter=3, polish=0), "polish": 0},
    "distribution": {"base": torch.distributions.Laplace(0.0, 1.0)},
    "mixture of distributions": {"base": mixture()},
    "options": {"solver": TorchDiffEq("rk4", options={"step_size": 0.1}), "polish": 0},
    "own parts": {"interpolant": Cubic(), "base": Shifted(), "velocity": Small(), "preprocessor": "whiten"},
    "random state": {"random_state": np.random.RandomState(3)},
}


@pytest.fixture(scope="module")
def X():
    rows = np.random.default_rng(0).normal(size=(120, 2))
    rows[:, 1] += 0.5 * rows[:, 0] ** 2
    rows.setflags(write=False)
    return rows


def fitted(X, **parameters):
    settings = {"velocity": MLP(width=8, time_width=8), "max_iter": 8, "polish": 4, "random_state": 0}
    settings["preprocessor"] = "whiten"  # one candidate, half the time
    parameters = {name: clone(value, safe=False) for name, value in parameters.items()}
    if isinstance(parameters.get("base"), SklearnDensity):
        parameters["base"].estimator.estimator.set_params(random_state=0).fit(X)
    return InterpolantFlow(**{**settings, **parameters}).fit(X)


@pytest.fixture(scope="module")
def flow(X):
    return fitted(X)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


def there_and_back(estimator, path):
    estimator.save(path)
    return siflow_sk.load(path)


def answers(flow, X):
    values = [flow.score_samples(X), flow.transform(X), flow.sample(5, random_state=1)]
    values += [flow.velocity_field(0.3, X), flow.divergence(0.3, X)]
    return [*values, np.array(flow.loss_curve_ + flow.validation_scores_ + flow.polish_loss_curve_)]


def equal(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# -- what goes in comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_loaded_flow_is_equal_to_the_bit_and_learns_on_alike(name, X, path):
    before = fitted(X, **CONFIGURATIONS[name])
    after = there_and_back(before, path)
    assert list(vars(after)) == list(vars(before))
    assert re.sub("0x[0-9A-F]+", "", repr(after)) == re.sub("0x[0-9A-F]+", "", repr(before))
    equal(answers(after, X), answers(before, X))
    equal(answers(after.partial_fit(X[:50]), X), answers(before.partial_fit(X[:50]), X))


# a search is a procedure; what it found, its best_estimator_, can be saved
SAVED = [cls for cls in all_estimators() if cls is not InterpolantSearchCV]


@pytest.mark.parametrize("cls", SAVED, ids=lambda cls: cls.__name__)
def test_every_estimator_can_be_saved(cls, X, path):
    estimator = configured(cls, max_iter=3, polish=0, velocity=MLP(width=8))
    estimator.set_params(**dict.fromkeys({"random_state"} & set(estimator.get_params()), 0))
    unfitted = there_and_back(estimator, path)
    assert type(unfitted) is cls
    assert repr(unfitted) == repr(estimator)
    loaded = there_and_back(estimator.fit(X, X[:, 0] > 0.2), path)
    check_is_fitted(loaded)
    assert list(vars(loaded)) == list(vars(estimator))
    methods = ("score_samples", "transform", "predict", "decision_function")
    methods = [m for m in methods if hasattr(estimator, m)]
    assert methods
    for method in methods:
        try:
            expected = getattr(estimator, method)(X)
        except TypeError:  # it wants more than X
            continue
        np.testing.assert_array_equal(getattr(loaded, method)(X), expected)


def test_what_is_not_learnt_is_kept_as_well(X, path):
    frame = pd.DataFrame(X, columns=["a", "Größe"])
    frame["constant"] = 1.5
    flow = quick(max_iter=3, polish=0).set_output(transform="pandas")
    with sklearn.config_context(enable_metadata_routing=True):
        flow.set_fit_request(sample_weight=True).set_score_request(sample_weight="w")
        requests = flow.get_metadata_routing()._serialize()
        loaded = there_and_back(flow.fit(frame), path)
        assert loaded.get_metadata_routing()._serialize() == requests
        clone(loaded)
    assert list(loaded.transform(frame).columns) == list(flow.transform(frame).columns)
    assert list(loaded.feature_names_in_) == ["a", "Größe", "constant"]
    assert loaded.feature_names_in_.dtype == object
    pd.testing.assert_frame_equal(loaded.history_, flow.history_)


def test_steps_of_scikit_learn_before_a_flow(X, path):
    frame = pd.DataFrame(np.exp(X), columns=["a", "b"])
    flow = quick(max_iter=3, polish=0)
    before = make_density_pipeline(StandardScaler(), PowerTransformer(), flow).fit(frame)
    after = there_and_back(before, path)
    assert repr(after) == repr(before)
    assert after.named_steps_.powertransformer is after.steps_[1][1]
    equal([after.score_samples(frame), after._columns], [before.score_samples(frame), before._columns])
    assert type(after._columns) is type(before._columns)
    with pytest.raises(ValueError, match=r"DensityPipeline\.steps\[0\]\[1\] holds an object of .*Binarizer"):
        make_density_pipeline(Binarizer(), flow).save(path)


def test_identity_layout_and_flags_survive(X, path):
    before = fitted(X, **CONFIGURATIONS["own parts"])
    after = there_and_back(before, path)
    assert after.base_.again_ is after.base_
    assert after.base_.table_.flags.f_contiguous
    assert after.base_.flipped_.stride() == before.base_.flipped_.stride()
    assert not any(p.requires_grad for p in after.velocity_.parameters())
    assert not after.velocity_.training
    assert list(after.velocity_.state_dict()) == list(before.velocity_.state_dict())
    for a, b in zip(after.velocity_.parameters(), before.velocity_.parameters(), strict=True):
        assert (a.dtype, a.stride()) == (b.dtype, b.stride())
        assert a.data_ptr() % 64 == 0  # rounding of matrix products depends on it


def test_a_loaded_model_shares_nothing_with_the_file(flow, X, path):
    loaded = there_and_back(flow, path)
    path.unlink()
    loaded.fit(X)
    equal(answers(loaded, X), answers(flow, X))


def test_strange_values_survive(path):
    odd = {"nan": float("nan"), "inf": -np.inf, "big": 10**30, 3: (1, (2.5, "ä\n\udc80")), None: [True, -0.0]}
    odd["floats"], odd["numpy"] = [0.1 * k for k in range(20)] + [np.inf], np.float32(0.1)
    odd["dtypes"] = [np.dtype("float32"), torch.float64, torch.Size([2, 3])]
    odd["arrays"] = [np.zeros((0, 3)), np.array(2, dtype=">i4"), np.array(["a", "bc"]), np.array([[True]])]
    loaded = there_and_back(InterpolantFlow(solver=TorchDiffEq(options=odd)), path).solver.options
    odd["arrays"][1] = np.array(2, dtype="i4")  # files know one order of bytes
    assert repr(loaded) == repr(odd)
    assert np.signbit(loaded[None][1])
    assert type(loaded["numpy"]) is np.float32


def test_the_file_is_a_safetensors_file(flow, path):
    flow.save(str(path))
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
        assert metadata["format"] == "siflow_sk"
        assert metadata["format_version"] == str(siflow_sk.persistence.FORMAT_VERSION)
        assert len(list(file.keys())) > 10
    assert json.loads(metadata["content"])["versions"]["siflow_sk"] == siflow_sk.__version__


def test_equal_models_give_equal_files(flow, X, tmp_path):
    flow.save(tmp_path / "a")
    there_and_back(flow, tmp_path / "b").save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


# -- older files, other versions ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(1, siflow_sk.persistence.FORMAT_VERSION + 1))
def test_files_of_older_formats_keep_loading(version):
    """tests/data/make_flow.py wrote the files when the format was new; they are never written again."""
    wanted = json.loads((DATA / f"flow_v{version}.json").read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionWarning)
        flow = siflow_sk.load(DATA / f"flow_v{version}.safetensors", device="cpu")
    X = np.array(wanted["X"])
    np.testing.assert_allclose(flow.score_samples(X), wanted["score_samples"], rtol=1e-8)
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(X)), X, atol=1e-3)
    assert flow.sample(3, random_state=0).shape == X[:3].shape
    flow.partial_fit(X)


def test_files_from_before_a_part_had_a_choice(X, path):
    """What later versions note, an older file does not hold."""
    model = ConditionalInterpolantFlow(max_iter=2, polish=0, random_state=0).fit(X[:, :1], X[:, 1])
    wanted = model.score_samples(X[:, :1], X[:, 1])
    del model._spread
    np.testing.assert_array_equal(there_and_back(model, path).score_samples(X[:, :1], X[:, 1]), wanted)
    coupled = fitted(X, coupling="optimal_transport")
    del coupled.coupling_.scipy_limit
    woken = there_and_back(coupled, path)
    assert repr(woken.coupling_) == "OptimalTransport()"
    np.testing.assert_array_equal(woken.score_samples(X), coupled.score_samples(X))


def test_classes_of_older_files_keep_their_names():
    names = (DATA / "names_v1.txt").read_text(encoding="utf-8").split()
    assert len(names) > 20
    assert [name for name in names if _registry.entry_named(name) is None] == []


def edited(path, edit):
    """The file with its content changed by ``edit`` and a checksum that fits."""
    content, tensors = _container.read(path, "estimator")
    edit(content)
    path.write_bytes(_container.pack("estimator", content, tensors))
    return path


def test_a_parameter_that_came_later_gets_its_default(flow, X, path):
    flow.save(path)
    loaded = siflow_sk.load(edited(path, lambda content: content["object"]["state"].pop("tol")))
    assert loaded.tol == InterpolantFlow().tol
    equal(answers(loaded, X), answers(flow, X))


def test_state_of_another_library_names_the_version(X, path):
    fitted(X, base=GaussianMixture(2)).save(path)
    edited(path, lambda content: content["versions"].update({"scikit-learn": "0.1"}))
    with pytest.warns(VersionWarning, match=r"GaussianMixture was stored by version 0\.1 of scikit-learn"):
        siflow_sk.load(path)
    fitted(X).save(path)
    siflow_sk.load(edited(path, lambda content: content["versions"].update({"scikit-learn": "0.1"})))


# -- the fault catalogue -----------------------------------------------------------------------------------


def refused(path, message, error=ValueError):
    with pytest.raises(error, match=message) as caught:
        siflow_sk.load(path)
    assert path.name in str(caught.value)


def test_fault_58_saved_on_a_gpu_loaded_without_one(flow, X, path):
    there = there_and_back(flow, path)
    there.device_ = "cuda:0"
    there.save(path)
    if torch.cuda.is_available():
        assert siflow_sk.load(path).device_ == "cuda"
        return
    with pytest.warns(DeviceWarning, match=r"InterpolantFlow was fitted on 'cuda:0', which is not here"):
        here = siflow_sk.load(path)
    assert here.device_ == "cpu"
    equal(answers(here, X), answers(flow, X))
    assert siflow_sk.load(path, device="cpu").device_ == "cpu"  # asked for: no warning
    with pytest.raises(ValueError, match="CUDA requested"):
        siflow_sk.load(path, device="cuda")


def test_fault_59_truncated_file(flow, path):
    flow.save(path)
    data = path.read_bytes()
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, "truncated or damaged")
    path.write_bytes(data + b"\0")
    refused(path, "truncated or damaged")


def test_fault_59_flipped_bits(flow, path):
    flow.save(path)
    data = path.read_bytes()
    payload = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    for at in [*rng.integers(payload, size=100), *rng.integers(payload, len(data), size=50), len(data) - 1]:
        mutant = bytearray(data)
        mutant[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(mutant)
        with pytest.raises(ValueError, match=r"damaged|newer|siflow_sk"):
            siflow_sk.load(path)
        if at >= payload:
            refused(path, r"the file is damaged \(checksum\)")


def test_fault_59_garbage(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "truncated or damaged")
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    refused(path, "a safetensors file, but none that siflow_sk wrote")


class Payload:
    fired = False

    def __reduce__(self):
        return (setattr, (Payload, "fired", True))


def test_fault_60_pickles(flow, X, path):
    def joblibbed(**kwargs):
        file = io.BytesIO()
        joblib.dump(Payload(), file, **kwargs)
        return file.getvalue()

    pickles = [pickle.dumps(Payload(), protocol) for protocol in range(6)]
    pickles += [joblibbed(), joblibbed(compress=3), gzip.compress(pickles[4])]
    for data in pickles:
        path.write_bytes(data)
        refused(path, r"is .*pickle.*siflow_sk\.load never unpickles")
    torch.save(flow.velocity_.state_dict(), path)
    refused(path, r"zip archive.*siflow_sk\.load never unpickles")
    np.save(path.with_suffix(".npy"), X)
    refused(path.with_suffix(".npy"), "is a NumPy array")
    assert not Payload.fired


def test_fault_61_headers_that_promise_too_much(flow, path):
    flow.save(path)
    data = path.read_bytes()
    for length in (10**12, 2**63, len(data), 10**8 + 1):
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        refused(path, "truncated or damaged")
    entry = {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}
    for header in ({"0": entry}, {"__metadata__": {"format": "siflow_sk"}, "0": entry}):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
        refused(path, "8,000,000,000,000 bytes of numbers wanted, 100 found")
    text = b'{"a":' * 50_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    refused(path, r"damaged \(header\)")


def test_fault_62_newer_format(flow, path, monkeypatch):
    monkeypatch.setattr(_container, "FORMAT_VERSION", 7)
    flow.save(path)
    monkeypatch.undo()
    refused(path, f"format version 7; this siflow_sk reads versions up to {_container.FORMAT_VERSION}")


def test_fault_63_no_space_left(flow, X, path, monkeypatch):
    flow.save(path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(X, random_state=1).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_fault_63_no_directory_no_permission(flow, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*missing"):
        flow.save(tmp_path / "missing" / "flow")
    with pytest.raises(FileNotFoundError):
        siflow_sk.load(tmp_path / "missing")

    def forbidden(*args, **kwargs):  # root may write everywhere, so the refusal is made here
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(PermissionError):
        flow.save(tmp_path / "flow")
    assert list(tmp_path.iterdir()) == []


def test_fault_64_directories_links_and_existing_files(flow, X, tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        flow.save(tmp_path)
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        siflow_sk.load(tmp_path)
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_text("something else")
    link.symlink_to(path)
    flow.save(link)
    assert link.is_symlink()
    equal(answers(siflow_sk.load(path), X), answers(flow, X))
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_fault_66_functions_and_classes_that_are_not_registered(X, path):
    class Local(Interpolant):
        pass

    cases = {
        r"InterpolantFlow\.interpolant holds an object of .*Local, .* not registered": {
            "interpolant": Local()
        },
        r"InterpolantFlow\.interpolant holds .*Unregistered, .*register\(Unregistered\)": {
            "interpolant": Unregistered()
        },
        r"InterpolantFlow\.solver\.options\['f'\] holds <function .*only pickle": {
            "solver": TorchDiffEq(options={"f": lambda t: t})
        },
        r"InterpolantFlow\.solver\.options\[0\] holds <class": {"solver": TorchDiffEq(options=[dict])},
        r"InterpolantFlow\.velocity holds an object of .*Generator": {"velocity": np.random.default_rng(0)},
        r"InterpolantFlow\.base\.transforms\[0\] holds an object of .*ExpTransform": {
            "base": torch.distributions.LogNormal(0.0, 1.0)
        },
    }
    for message, parameters in cases.items():
        with pytest.raises(ValueError, match=message):
            InterpolantFlow(**parameters).save(path)
        assert not path.exists()


def test_fault_66_hooks(X, path):
    flow = fitted(X)
    flow.velocity_.register_forward_hook(print)
    with pytest.raises(ValueError, match=r"InterpolantFlow\.velocity_ is a module with _forward_hooks"):
        flow.save(path)


# -- forged files ------------------------------------------------------------------------------------------


def node_of(content, name):
    return content["object"]["state"][name]


def test_classes_that_are_not_registered_are_refused(flow, path):
    for name in ("os.system", "builtins.eval", "siflow_sk.persistence.load", "test_persistence.Unregistered"):
        flow.save(path)
        edited(path, lambda content, name=name: node_of(content, "solver_").update({"class": name}))
        refused(path, f"names the class '{name}', which is not registered")


def test_a_forged_file_whose_error_has_no_text_is_refused(flow, path, monkeypatch):
    """As where the text shows an object that the file left half-made."""

    class MuteError(Exception):
        def __str__(self):
            raise AttributeError("half-made")

    def decode(decoder, node):
        raise MuteError

    flow.save(path)
    monkeypatch.setattr(siflow_sk.persistence.Decoder, "decode", decode)
    with pytest.raises(ValueError, match=r"the content is not what save\(path\) writes \(MuteError\)"):
        siflow_sk.load(path)


def test_a_file_of_something_else_is_refused(flow, path):
    flow.save(path)
    edited(path, lambda content: content.update(object=node_of(content, "solver_")))
    refused(path, "holds a Grid, not an estimator of ours")
    path.write_bytes(_container.pack("checkpoint", {}, {}))
    refused(path, "holds 'checkpoint', not 'estimator'")


def test_counts_that_compiled_code_would_trust_are_checked(X, path):
    fitted(X, base=KernelDensity(), random_state=np.random.RandomState(0)).save(path)
    data = path.read_bytes()

    def far(content):
        for key, value in node_of(content, "random_state")["state"]["items"]:
            if key == "state":
                value["items"][1][1] = 10**6

    def heavy(content):
        state = node_of(content, "base_")["state"]["estimator_"]["state"]
        rows = {key: value for key, value in state["tree_"]["items"]}["rows"]
        state["tree_"]["items"][2][1] = {**rows, "id": 10**6, "key": "0"}

    for edit, message in ((far, "a position outside"), (heavy, "as many weights as rows|content is not")):
        path.write_bytes(data)
        refused(edited(path, edit), message)


def test_a_few_hundred_mutants(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = fuzz_load.fuzz(400, 1, str(tmp_path))
    assert counts["refused"] + counts["loaded"] == 400
    assert counts["refused"] > 200
    assert counts["slowest"] < 5.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_thousand_mutants(record_property):
    """In a process of its own: nothing executed, and memory that grows by less than a few files."""
    command = [sys.executable, fuzz_load.__file__, "20000", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    for name, value in counts.items():
        record_property(name, value)
    assert counts["executed"] == []
    assert counts["slowest"] < 5.0
    assert counts["growth"] < 32 * 2**20


# -- the registry ------------------------------------------------------------------------------------------


def test_register_refuses_names_that_are_taken():
    with pytest.raises(TypeError, match="takes a class"):
        register(Cubic())
    for name in ("siflow_sk.solvers.Grid", "torch.nn.Linear", "test_persistence.Cubic"):
        with pytest.raises(ValueError, match="belongs to"):
            register(Unregistered, name)
    assert _registry.entry_of(Unregistered) is None


def test_a_class_defined_anew_takes_over(path):
    def define(factor):
        @register
        class Again(Interpolant):
            def alpha(self, t):
                return factor * t

        return Again

    first = define(1.0)
    InterpolantFlow(interpolant=first()).save(path)
    define(2.0)
    assert siflow_sk.load(path).interpolant.alpha(1.0) == 2.0


def test_own_state_and_its_inverse(path):
    class Slotted:
        __slots__ = ("table",)

    def back(state):
        made = Slotted()
        made.table = state["table"]
        return made

    part = back({"table": np.arange(3.0)})
    register(Slotted, "slotted", get_state=lambda part: {"table": part.table}, from_state=back)
    loaded = there_and_back(InterpolantFlow(velocity=part), path)
    np.testing.assert_array_equal(loaded.velocity.table, part.table)


# -- pickles ------------------------------------------------------------------------------------------------


class Recorder(pickle.Unpickler):
    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.packages = set()

    def find_class(self, module, name):
        self.packages.add(module.split(".")[0])
        return super().find_class(module, name)


def test_a_pickle_holds_arrays_and_text_alone(flow, X):
    recorder = Recorder(pickle.dumps(flow))
    woken = recorder.load()
    assert recorder.packages <= {"siflow_sk", "numpy", "_codecs", "builtins", "copyreg", "copy_reg"}
    equal(answers(woken, X), answers(flow, X))


def test_a_pickle_keeps_what_only_pickle_can_store(X):
    before = fitted(X, solver=TorchDiffEq("rk4", options={"step_size": 0.1}))
    before.solver.options["unused"] = len
    before.velocity_.register_forward_hook(nothing)
    before.base_.half = torch.ones(2, dtype=torch.bfloat16)
    before.base_.owner = before
    before.interpolant = Unregistered()
    after = pickle.loads(pickle.dumps(before))
    assert after.solver.options == before.solver.options
    assert after.base_.owner is after
    assert after.base_.half.dtype == torch.bfloat16
    assert type(after.interpolant) is Unregistered
    assert len(after.velocity_._forward_hooks) == 1
    equal(answers(after, X), answers(before, X))


def nothing(module, inputs, output):
    return None


def test_skops_asks_for_the_estimator_alone(flow, X):
    data = skops.io.dumps(flow)
    assert skops.io.get_untrusted_types(data=data) == ["siflow_sk.flow.InterpolantFlow"]
    equal(answers(skops.io.loads(data, trusted=["siflow_sk.flow.InterpolantFlow"]), X), answers(flow, X))


def test_fault_65_pickle_of_another_version(flow, X, monkeypatch):
    data = pickle.dumps(flow)
    pickle.loads(data)
    monkeypatch.setattr(siflow_sk.persistence, "__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match=r"InterpolantFlow, .* is loaded by version 99\.0"):
        woken = pickle.loads(data)
    equal(answers(woken, X), answers(flow, X))


def test_a_pickle_from_before_arrays_and_text_still_wakes(flow, X):
    woken = InterpolantFlow.__new__(InterpolantFlow)
    woken.__setstate__(dict(vars(flow)))
    equal(answers(woken, X), answers(flow, X))


# -- what a report of a bug needs ----------------------------------------------------------------------------


def test_show_versions_names_every_dependency(capsys):
    siflow_sk.show_versions()
    told = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert told["siflow_sk"] == siflow_sk.__version__
    assert told["torch"] == torch.__version__
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in tomllib.loads(text)["project"]["dependencies"]:
        assert re.match(r"[\w-]+", requirement).group() in told
