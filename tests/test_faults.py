"""Bad and extreme input, one test per row of the fault catalogue: the message, and that nothing is lost."""

import copy
import inspect
import math
import warnings

import joblib
import numpy as np
import numpy.lib.recfunctions as recfunctions
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

import siflow_sk.exceptions
from siflow_sk import InterpolantFlow
from siflow_sk.bases import Gaussian, StandardNormal, StudentT, Uniform
from siflow_sk.exceptions import DataWarning, SolverWarning, TrainingWarning
from siflow_sk.interpolants import Linear
from siflow_sk.preprocessing import Gaussianize, Whiten
from siflow_sk.solvers import DormandPrince, Grid, RungeKutta, TorchDiffEq
from siflow_sk.velocities import MLP, ResidualMLP

NAMES = ["a", "b", "c", "d"]


def quick(**parameters):
    settings = {"max_iter": 5, "polish": 2, "velocity": MLP(width=8), "random_state": 0}
    return InterpolantFlow(**{**settings, **parameters})


def rows(n=60, d=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.fixture(scope="module")
def X():
    table = rows()
    table.setflags(write=False)
    return table


@pytest.fixture(scope="module")
def scores(X):
    """What an array of float64 gives; other containers must give the same."""
    return quick().fit(X).score_samples(X)


@pytest.fixture(scope="module")
def array_flow(X):
    """Fitted on the array; every test leaves it as it was."""
    return quick().fit(X)


@pytest.fixture(scope="module")
def frame(X):
    return pd.DataFrame(X, columns=NAMES)


# -- what "unchanged" means --------------------------------------------------------------------------------


def state_of(flow):
    """Every attribute of a flow as name -> (identity, hash of the contents)."""
    state = {}
    for name, value in vars(flow).items():
        contents = value
        if isinstance(value, torch.nn.Module):
            contents = {key: tensor.numpy() for key, tensor in value.state_dict().items()}
        state[name] = (id(value), joblib.hash(contents))
    return state


class unharmed:
    """Assert that a block changes neither the attributes of a fitted flow nor what it answers."""

    def __init__(self, flow, X):
        self.flow, self.X = flow, X

    def __enter__(self):
        self.state, self.scores = state_of(self.flow), self.flow.score_samples(self.X)

    def __exit__(self, *error):
        if error[0] is None:
            assert state_of(self.flow) == self.state
            np.testing.assert_array_equal(self.flow.score_samples(self.X), self.scores)


def unfitted_still(flow):
    assert vars(flow) == flow.get_params(deep=False)
    with pytest.raises(NotFittedError):
        check_is_fitted(flow)


def refuses_to_fit(
    error, message, bad, fitted, X, *, methods=("fit", "partial_fit", "fit_transform"), **kwargs
):
    """An unfitted flow stays unfitted, a fitted one stays as it is."""
    for method in methods:
        flow = quick()
        with pytest.raises(error, match=message):
            getattr(flow, method)(bad, **kwargs)
        unfitted_still(flow)
        with unharmed(fitted, X), pytest.raises(error, match=message):
            getattr(fitted, method)(bad, **kwargs)


SCORING = {
    "score_samples": lambda flow, X: flow.score_samples(X),
    "score": lambda flow, X: flow.score(X),
    "transform": lambda flow, X: flow.transform(X),
    "velocity_field": lambda flow, X: flow.velocity_field(0.5, X),
    "divergence": lambda flow, X: flow.divergence(0.5, X),
}
INVERSE = {"inverse_transform": lambda flow, X: flow.inverse_transform(X)}


def refuses_to_score(error, message, bad, fitted, X, methods=SCORING):
    for call in methods.values():
        with unharmed(fitted, X), pytest.raises(error, match=message):
            call(fitted, bad)


def refuses(error, message, bad, fitted, X):
    refuses_to_fit(error, message, bad, fitted, X)
    refuses_to_score(error, message, bad, fitted, X)


def caught(function, *args, **kwargs):
    """The result and the list of (category, message) of all warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    return result, [(w.category, str(w.message)) for w in seen]


def data_warnings(flow, X, **kwargs):
    _, seen = caught(flow.fit, X, **kwargs)
    return [message for category, message in seen if category is DataWarning]


# -- data values -------------------------------------------------------------------------------------------


def test_fault_01_nan(X, array_flow):
    bad = X.copy()
    bad[7, 2] = np.nan
    refuses(
        ValueError, r"Input X contains NaN\.\nInterpolantFlow does not accept missing", bad, array_flow, X
    )
    refuses_to_score(ValueError, "Input X contains NaN", bad, array_flow, X, INVERSE)


def test_fault_02_infinity(X, array_flow):
    for value in (np.inf, -np.inf):
        bad = X.copy()
        bad[7, 2] = value
        refuses(ValueError, "Input X contains infinity or a value too large", bad, array_flow, X)
        refuses_to_score(ValueError, "Input X contains infinity", bad, array_flow, X, INVERSE)


def test_fault_03_nullable_columns(X, frame, scores):
    nullable = frame.convert_dtypes()
    assert all(isinstance(dtype, pd.Float64Dtype) for dtype in nullable.dtypes)
    fitted = quick().fit(nullable)
    np.testing.assert_array_equal(fitted.score_samples(nullable), scores)
    bad = nullable.copy()
    bad.loc[3, "b"] = pd.NA
    refuses(ValueError, "Input X contains NaN", bad, fitted, nullable)
    whole = pd.DataFrame({"a": np.arange(20) ** 2, "b": np.arange(20)[::-1] % 7}).astype("Int64")
    expected = quick().fit(whole.astype(float)).score_samples(whole.astype(float))
    np.testing.assert_array_equal(quick().fit(whole).score_samples(whole), expected)
    whole.loc[3, "b"] = pd.NA
    with pytest.raises(ValueError, match="Input X contains NaN"):
        quick().fit(whole)


def test_fault_04_all_rows_identical(X, array_flow):
    for bad in (np.full((10, 4), 0.1), np.zeros((10, 4)), np.tile([1.0, -2.0, 1e300, 1e-300], (10, 1))):
        refuses_to_fit(
            ValueError, "all samples are identical", bad, array_flow, X, methods=("fit", "fit_transform")
        )
        with pytest.raises(ValueError, match="all samples are identical"):
            quick().partial_fit(bad)
    one_row_counts = np.eye(60)[0]
    with unharmed(array_flow, X), pytest.raises(ValueError, match="all samples are identical"):
        array_flow.fit(X, sample_weight=one_row_counts)


def check_constant_column(values, X):
    """A flow with a constant second column is the flow without it."""
    table = pd.DataFrame(np.insert(X, 1, values, axis=1), columns=["a", "still", "b", "c", "d"])
    flow = quick()
    (message,) = [m for m in data_warnings(flow, table) if "constant" in m]
    assert "'still'" in message
    assert not any(f"'{name}'" in message for name in NAMES)
    expected = quick().fit(X)
    np.testing.assert_array_equal(flow.score_samples(table), expected.score_samples(X))
    np.testing.assert_array_equal(flow.transform(table), expected.transform(X))
    np.testing.assert_array_equal(flow.constant_features_, [1])
    drawn = flow.sample(6, random_state=0)
    np.testing.assert_allclose(drawn[:, 1], values[0], rtol=1e-14)
    np.testing.assert_array_equal(np.delete(drawn, 1, axis=1), expected.sample(6, random_state=0))
    assert (flow.velocity_field(0.5, table)[:, 1] == 0).all()
    np.testing.assert_array_equal(flow.divergence(0.5, table), expected.divergence(0.5, X))

    other = table.copy()
    other.loc[[2, 5], "still"] = values[0] + max(1.0, abs(values[0]))
    elsewhere = flow.score_samples(other)
    assert (elsewhere[[2, 5]] == -np.inf).all()
    np.testing.assert_array_equal(np.delete(elsewhere, [2, 5]), np.delete(flow.score_samples(table), [2, 5]))
    return flow, table


@pytest.mark.parametrize("value", [0.1, 0.0, -3.0, 1e300, 1e-300])
def test_fault_05_constant_column(value, X):
    check_constant_column(np.full(60, value), X)


def test_fault_05_constant_column_in_single_precision(X):
    """0.1 is another number in float32; the same table must not have density zero for that."""
    flow, table = check_constant_column(np.full(60, 0.1), X)
    np.testing.assert_allclose(
        flow.score_samples(table.astype(np.float32)), flow.score_samples(table), atol=1e-3
    )


def test_fault_05_constant_column_of_an_array(X):
    (message,) = [m for m in data_warnings(quick(), np.insert(X, 1, 0.1, axis=1)) if "constant" in m]
    assert "column 1" in message


@pytest.mark.parametrize("value", [0.1, 1e6, -3e-250])
def test_fault_06_column_constant_up_to_rounding(value, X):
    values = np.full(60, value)
    values[::3] = np.nextafter(value, np.inf)
    values[1::3] = np.nextafter(value, -np.inf)
    flow, table = check_constant_column(values, X)
    assert np.isfinite(flow.score_samples(table)).all()


def test_fault_07_duplicated_rows(X):
    repeated = np.repeat(X, 3, axis=0)
    flow = quick()
    (message,) = [m for m in data_warnings(flow, repeated) if "repeated" in m]
    assert "120 of 180 rows are repeated: the density may be discrete" in message
    assert np.isfinite(flow.score_samples(X)).all()
    half = np.concatenate([X, X])
    assert not any("repeated" in m for m in data_warnings(quick(), half))


def test_fault_08_columns_that_look_discrete():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "smooth": rng.normal(size=200),
            "count": rng.poisson(4, size=200),
            "level": rng.choice([0.1, 0.7, 2.3], size=200),
        }
    )
    flow = quick()
    messages = [m for m in data_warnings(flow, table) if "discrete" in m]
    assert len(messages) == 1
    assert "'count'" in messages[0]
    assert "'level'" in messages[0]
    assert "'smooth'" not in messages[0]
    assert "looks discrete; consider jitter" in messages[0]
    assert np.isfinite(flow.score_samples(table)).all()
    with warnings.catch_warnings():  # switched off by its class
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DataWarning)
        quick().fit(table)
    large = np.column_stack(
        [rng.normal(size=200), rng.permutation(10**6)[:200]]
    )  # whole numbers, all distinct
    assert not any("discrete" in m for m in data_warnings(quick(), large))


def test_fault_09_one_row(X, array_flow):
    message = r"Found array with 1 sample\(s\) .* while a minimum of 2 is required by InterpolantFlow"
    refuses_to_fit(ValueError, message, X[:1], array_flow, X, methods=("fit", "fit_transform"))
    with pytest.raises(ValueError, match=message):
        quick().partial_fit(X[:1])


@pytest.mark.parametrize("n", range(2, 11))
def test_fault_10_very_few_rows(n, X):
    flow = quick()
    messages = data_warnings(flow, X[:n])
    assert f"{n} distinct rows for 4 columns: fewer than 10 rows per column." in messages
    assert flow.early_stopping_ is False
    assert np.isfinite(flow.score_samples(X)).all()
    assert np.isfinite(flow.sample(20)).all()
    if n < 10:
        with pytest.warns(TrainingWarning, match=f"{n} distinct rows are too few .*: early stopping is off"):
            assert quick(early_stopping=True).fit(X[:n]).early_stopping_ is False


def test_fault_11_one_column(X, frame):
    flow = quick().fit(frame[["c"]])
    assert list(flow.feature_names_in_) == ["c"]
    assert list(flow.get_feature_names_out()) == ["interpolantflow0"]
    assert flow.score_samples(frame[["c"]]).shape == (60,)
    assert np.isfinite(flow.score_samples(frame[["c"]])).all()
    assert flow.sample(5).shape == (5, 1)
    assert flow.transform(frame[["c"]]).shape == (60, 1)
    assert flow.velocity_field(0.5, frame[["c"]]).shape == (60, 1)


def test_fault_12_more_columns_than_rows():
    wide = rows(n=15, d=30)
    flow = quick()
    assert "15 distinct rows for 30 columns: fewer than 10 rows per column." in data_warnings(flow, wide)
    assert np.isfinite(flow.score_samples(wide)).all()
    assert flow.sample(3).shape == (3, 30)


@pytest.mark.parametrize("factor", [1e12, 1e-12])
def test_fault_13_change_of_unit(factor, X, scores):
    flow = quick().fit(X * factor)
    shifted = flow.score_samples(X * factor) + 4 * math.log(factor)
    np.testing.assert_allclose(shifted, scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        flow.sample(5, random_state=0) / factor,
        quick().fit(X).sample(5, random_state=0),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("factor", [1e300, 1e-200, 2.0**990, 2.0**-990])
def test_fault_14_extreme_change_of_unit(factor, X, scores):
    flow = quick().fit(X * factor)
    shifted = flow.score_samples(X * factor) + 4 * math.log(factor)
    np.testing.assert_allclose(shifted, scores, rtol=1e-5, atol=1e-5)
    assert np.isfinite(flow.sample(20, random_state=0)).all()


def test_fault_14_column_wider_than_float64(X, frame, array_flow):
    wide = frame.copy()
    wide.loc[0, "b"], wide.loc[1, "b"] = 1.7e308, -1.7e308
    for columns, name in ((wide, "column 'b'"), (wide.to_numpy(), "column 1")):
        flow = quick()
        with pytest.raises(ValueError, match=f"^{name} spans more than the float64 range; rescale it"):
            flow.fit(columns)
        unfitted_still(flow)
    with unharmed(array_flow, X), pytest.raises(ValueError, match="spans more than the float64 range"):
        array_flow.fit(wide.to_numpy())


def test_fault_15_large_offset(X):
    far = X + 1e12
    near = far - 1e12  # exact: the same numbers without the offset
    flow, expected = quick().fit(far), quick().fit(near)
    np.testing.assert_allclose(flow.score_samples(far), expected.score_samples(near), rtol=1e-9, atol=1e-9)
    assert not any("float32" in m for m in data_warnings(quick(), far))
    table = pd.DataFrame(X, columns=NAMES).assign(b=X[:, 1] + 1e5).astype(np.float32)
    (message,) = [m for m in data_warnings(quick(), table) if "float32" in m]
    assert message.startswith("column 'b': float32 spends at least half of its digits on the offset")
    assert not any("float32" in m for m in data_warnings(quick(), X.astype(np.float32)))


def test_fault_16_collinear_columns(X):
    table = X.copy()
    table[:, 3] = table[:, 0] - 2.0 * table[:, 1]
    flow = quick(preprocessor="whiten")
    (message,) = [m for m in data_warnings(flow, table) if "rank" in m]
    assert message == "the columns have rank 3 < 4: the density is singular."
    assert np.isfinite(flow.score_samples(table)).all()
    np.testing.assert_allclose(flow.sample(50) @ [1.0, -2.0, 0.0, -1.0], 0.0, atol=0.02)
    assert not any("rank" in m for m in data_warnings(quick(), X))


# -- data types and shapes ---------------------------------------------------------------------------------


def test_fault_17_whole_numbers_and_bools(X):
    table = pd.DataFrame(
        {"a": np.round(10 * X[:, 0]).astype(int), "b": X[:, 1] > 0, "c": X[:, 2], "d": np.arange(60)}
    )
    expected = quick().fit(table.astype(float)).score_samples(table.astype(float))
    fitted = quick().fit(table)
    np.testing.assert_array_equal(fitted.score_samples(table), expected)
    whole = np.round(10 * X).astype(np.int32)
    expected = quick().fit(whole.astype(float)).score_samples(whole.astype(float))
    for dtype in (np.int32, np.int64, np.int8):
        fitted = quick().fit(whole.astype(dtype))
        np.testing.assert_array_equal(fitted.score_samples(whole.astype(dtype)), expected)
        assert fitted.sample(2).dtype == np.float64


def test_fault_18_objects_that_are_numbers(X, scores):
    for table in (X.astype(object), X.astype(str), pd.DataFrame(X.astype(object), columns=NAMES), X.tolist()):
        fitted = quick().fit(table)
        np.testing.assert_array_equal(fitted.score_samples(table), scores)


def test_fault_19_text(X, frame, array_flow):
    colour = np.where(np.arange(60) % 2, "red", "green")
    tables = {
        r"\['colour'\]": [
            frame.assign(colour=colour),
            frame.assign(colour=pd.Categorical(colour)),
            frame.assign(colour=colour.astype(object), a=frame["a"].astype(object)),
        ],
        r"\[4\]": [np.column_stack([X.astype(object), colour]), np.column_stack([X.astype(str), colour])],
    }
    for columns, bads in tables.items():
        for bad in bads:
            message = (
                r"(?s)could not convert string to float: .*(red|green).*"
                rf"Column\(s\) {columns} hold text.*OneHotEncoder"
            )
            flow = quick()
            with pytest.raises(ValueError, match=message):
                flow.fit(bad)
            unfitted_still(flow)
            with unharmed(array_flow, X), pytest.raises(ValueError, match=message):
                array_flow.fit(bad)
    named = quick().fit(frame)
    bad = frame.assign(b=colour)
    refuses(
        ValueError, r"could not convert string to float.*Column\(s\) \['b'\] hold text", bad, named, frame
    )


def test_fault_20_dates(X, frame, array_flow):
    when = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(60), unit="h")
    for column in (
        when,
        when.tz_localize("Europe/Berlin"),
        when - when[0],
        pd.Series(when, dtype=object),
        pd.Series(when - when[0], dtype=object),
        pd.Series([t.date() for t in when], dtype=object),
    ):
        bad = frame.assign(when=column)
        refuses_to_fit(
            TypeError, r"Column\(s\) \['when'\] hold dates or durations", bad, array_flow, X, methods=("fit",)
        )
    named = quick().fit(frame)
    refuses(TypeError, r"Column\(s\) \['b'\] hold dates", frame.assign(b=when), named, frame)
    for array in (np.zeros((5, 4), "datetime64[s]"), np.zeros((5, 4), "timedelta64[s]")):
        refuses(TypeError, r"Column\(s\) \['X'\] hold dates or durations", array, array_flow, X)


def test_fault_21_sparse(X, array_flow):
    for make in (scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.coo_array):
        refuses(TypeError, "Sparse data was passed for X, but dense data is required", make(X), array_flow, X)
    refuses_to_score(TypeError, "Sparse data was passed", scipy.sparse.csr_array(X), array_flow, X, INVERSE)


def test_fault_22_complex(X, array_flow):
    refuses(ValueError, "Complex data not supported", X + 1j, array_flow, X)
    refuses_to_score(ValueError, "Complex data not supported", X + 1j, array_flow, X, INVERSE)


def test_fault_23_masked_array(X, array_flow, scores):
    masked = np.ma.masked_array(X.copy(), mask=np.zeros_like(X, dtype=bool))
    np.testing.assert_array_equal(quick().fit(masked).score_samples(masked), scores)
    masked[3, 1] = np.ma.masked
    masked[8, 0] = np.ma.masked
    refuses(ValueError, "Input X is a masked array with 2 masked values", masked, array_flow, X)
    refuses_to_score(ValueError, "masked array with 2 masked values", masked, array_flow, X, INVERSE)


def test_fault_24_structured_array(X, array_flow):
    structured = recfunctions.unstructured_to_structured(X, names=NAMES)
    message = r"structured array with fields \['a', 'b', 'c', 'd'\].*structured_to_unstructured"
    refuses(TypeError, message, structured, array_flow, X)
    refuses(TypeError, message, structured.view(np.recarray), array_flow, X)


def test_fault_25_wrong_shapes(X, array_flow):
    refuses(TypeError, "np.matrix is not supported", scipy.sparse.csr_matrix(X).todense(), array_flow, X)
    refuses(ValueError, "Expected 2D array, got 1D array instead", X[:, 0], array_flow, X)
    refuses(ValueError, "Expected 2D array, got scalar array instead", 3.0, array_flow, X)
    refuses(ValueError, "Found array with dim 3", X[:, :, None], array_flow, X)
    refuses(ValueError, "setting an array element with a sequence", [[1.0, 2.0], [3.0]], array_flow, X)
    refuses_to_score(ValueError, r"expecting \(n_samples, 4\)|2D array", X[:, 0], array_flow, X, INVERSE)
    refuses_to_score(ValueError, r"expecting \(n_samples, 4\)|4 features", X[:, :3], array_flow, X, INVERSE)


def test_fault_26_torch_tensors(X, array_flow, scores):
    for tensor in (torch.tensor(X), torch.tensor(X, requires_grad=True), torch.tensor(X) * torch.ones(1)):
        np.testing.assert_array_equal(quick().fit(tensor).score_samples(tensor), scores)
        np.testing.assert_array_equal(array_flow.transform(tensor), array_flow.transform(X))
        np.testing.assert_array_equal(array_flow.inverse_transform(tensor), array_flow.inverse_transform(X))
        assert isinstance(array_flow.transform(tensor), np.ndarray)
    single = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    assert quick().fit(single).transform(single).dtype == np.float32
    bad = torch.tensor(X)
    bad[0, 0] = math.nan
    refuses(ValueError, "Input X contains NaN", bad, array_flow, X)


def test_fault_27_half_and_extended_precision(X):
    for dtype in (np.float16, np.longdouble):
        cast = X.astype(dtype)
        fitted, expected = quick().fit(cast), quick().fit(cast.astype(np.float64))
        assert fitted.transform(cast).dtype == np.float64
        assert fitted.sample(2).dtype == np.float64
        assert fitted.score_samples(cast).dtype == np.float64
        np.testing.assert_array_equal(
            fitted.score_samples(cast), expected.score_samples(cast.astype(np.float64))
        )


def test_fault_28_memory_layouts(X, scores, tmp_path):
    X.astype(np.float64).tofile(tmp_path / "table")
    negative = X[::-1, ::-1].copy()[::-1, ::-1]
    layouts = {
        "Fortran": np.asfortranarray(X),
        "negative strides": negative,
        "every second": np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
        "read-only": X,
        "memory map": np.memmap(tmp_path / "table", dtype=float, mode="r", shape=X.shape),
        "writable memory map": np.memmap(tmp_path / "table", dtype=float, mode="r+", shape=X.shape),
        "byte order": X.astype(">f8"),
    }
    assert negative.strides[0] < 0
    assert not X.flags.writeable
    back = quick().fit(X).inverse_transform(X)
    for name, table in layouts.items():
        before = np.array(table)
        fitted = quick().fit(table)
        np.testing.assert_array_equal(fitted.score_samples(table), scores, err_msg=name)
        np.testing.assert_array_equal(fitted.inverse_transform(table), back)
        np.testing.assert_array_equal(table, before, err_msg=name)


def test_fault_29_no_rows(X, frame, array_flow):
    refuses(ValueError, r"Found array with 0 sample\(s\)", X[:0], array_flow, X)
    refuses_to_score(ValueError, r"Found array with 0 sample\(s\)", X[:0], array_flow, X, INVERSE)
    named = quick().fit(frame)
    refuses(ValueError, r"Found array with 0 sample\(s\)", frame.iloc[:0], named, frame)


def test_fault_30_wrong_number_of_columns(X, array_flow):
    for bad, n in ((X[:, :1], 1), (np.hstack([X, X]), 8)):
        message = f"X has {n} features, but InterpolantFlow is expecting 4 features as input"
        refuses_to_score(ValueError, message, bad, array_flow, X)
        with unharmed(array_flow, X), pytest.raises(ValueError, match=message):
            array_flow.partial_fit(bad)
    with pytest.raises(ValueError, match=r"Found array with 0 feature\(s\)"):
        quick().fit(X[:, :0])


def test_fault_31_other_column_names(frame):
    fitted = quick().fit(frame)
    renamed = frame.rename(columns={"a": "q"})
    for bad, message in (
        (renamed, "(?s)should match those .* during fit.*unseen at fit time:\n- q\n.*now missing:\n- a\n"),
        (frame[["b", "a", "c", "d"]], "Feature names must be in the same order as they were in fit"),
        (frame[["a", "b"]], "(?s)Feature names seen at fit time, yet now missing:\n- c\n- d\n"),
        (frame.assign(e=1.0), "(?s)Feature names unseen at fit time:\n- e\n"),
    ):
        refuses_to_score(ValueError, message, bad, fitted, frame)
        with unharmed(fitted, frame), pytest.raises(ValueError, match=message):
            fitted.partial_fit(bad)


def test_fault_32_array_after_frame(X, frame):
    fitted = quick().fit(frame)
    for call in SCORING.values():
        with pytest.warns(UserWarning, match="X does not have valid feature names, but InterpolantFlow was"):
            result = call(fitted, X)
        np.testing.assert_array_equal(result, call(fitted, frame))
    other_way = quick().fit(X)
    with pytest.warns(UserWarning, match="X has feature names, but InterpolantFlow was fitted without"):
        other_way.score_samples(frame)


def test_fault_33_duplicate_or_mixed_column_names(X, array_flow):
    duplicate = pd.DataFrame(X, columns=["a", "a", "c", "d"])
    refuses_to_fit(ValueError, "(?i)(unique|duplicate)", duplicate, array_flow, X)
    mixed = pd.DataFrame(X, columns=["a", 1, "c", "d"])
    message = "Feature names are only supported if all input features have string names"
    refuses_to_fit(TypeError, message, mixed, array_flow, X)
    numbered = pd.DataFrame(X)  # no strings at all: no names, as scikit-learn has it
    assert not hasattr(quick().fit(numbered), "feature_names_in_")


def test_fault_34_y_is_ignored(X, scores):
    transformed = quick().fit(X).transform(X)
    for junk in ("junk", [1, 2, 3], np.full(60, np.nan), np.array([{}] * 60), object()):
        fitted = quick()
        np.testing.assert_array_equal(fitted.fit_transform(X, junk), transformed)
        np.testing.assert_array_equal(fitted.score_samples(X), scores)
        assert fitted.score(X, junk) == pytest.approx(scores.mean(), rel=1e-12)
        fitted.partial_fit(X, junk)


# -- weights, parameters, calls ----------------------------------------------------------------------------


def test_fault_35_bad_weights(X, array_flow):
    one = np.ones(60)
    for weight, message in (
        (np.r_[-1.0, one[1:]], "Negative values in data passed to `sample_weight`"),
        (np.r_[np.nan, one[1:]], "Input sample_weight contains NaN"),
        (np.r_[np.inf, one[1:]], "Input sample_weight contains infinity"),
        (one[:59], r"sample_weight.shape == \(59,\), expected \(60,\)"),
        (np.ones((60, 2)), "[Ss]ample.weights? must be 1D"),
        (0.0 * one, "(?i)sample.weight.*(zero|positive)"),
        (np.full(60, "heavy"), "could not convert string to float|dtype"),
    ):
        refuses_to_fit(
            ValueError, message, X, array_flow, X, methods=("fit", "partial_fit"), sample_weight=weight
        )
        with unharmed(array_flow, X), pytest.raises(ValueError, match=message):
            array_flow.score(X, sample_weight=weight)


def test_fault_35_weights_count_by_their_ratios(X):
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=60)
    expected = quick().fit(X, sample_weight=weight).score_samples(X)
    for factor in (2.0**-40, 2.0**900, 2.0**-900):  # their squares overflow or underflow
        flow = quick().fit(X, sample_weight=weight * factor)
        np.testing.assert_allclose(flow.score_samples(X), expected, rtol=1e-6, atol=1e-6)
        assert flow.score(X, sample_weight=weight * factor) == pytest.approx(
            flow.score(X, sample_weight=weight), rel=1e-9
        )


def test_fault_36_one_weight_dominates(X):
    weight = np.full(60, 1e-4)
    weight[5] = 1.0
    kish = weight.sum() ** 2 / (weight**2).sum()
    assert kish < 2
    flow = quick()
    (message,) = [m for m in data_warnings(flow, X, sample_weight=weight) if "Kish" in m]
    assert message == f"one weight dominates: the effective number of rows (Kish) is {kish:.2f}."
    assert np.isfinite(flow.score_samples(X)).all()
    assert not any("Kish" in m for m in data_warnings(quick(), X, sample_weight=np.ones(60)))


# parameter -> (values to refuse, what the message lists)
BAD_PARAMETERS = {
    "interpolant": (["cubic", 3, None], "(?=.*linear).*trigonometric"),
    "base": (["normall", 3, None, object()], "(?=.*gaussian)(?=.*normal)(?=.*student_t).*uniform"),
    "coupling": (["nearest", 3, None, object()], "(?=.*independent).*optimal_transport"),
    "velocity": (["mpl", 256, None], "(?=.*mlp).*residual"),
    "n_networks": ([0, -1, 2.5, "many", None], r"an int in the range \[1, inf\) or a str among \{'auto'\}"),
    "preprocessor": (
        ["whitening", 1.0, StandardNormal()],
        "(?=.*gaussianize)(?=.*none)(?=.*standardize).*whiten",
    ),
    "solver": (["euler", 20, None], "(?=.*dopri5)(?=.*grid)(?=.*rk4).*torchdiffeq"),
    "periodic": (["phi", 3, [0, 6.28]], "an instance of 'dict' or None"),
    "max_iter": ([0, -1, 2.5, "many", None], r"an int in the range \[1, inf\) or a str among \{'auto'\}"),
    "polish": ([-1, 0.5, "some", None], r"an int in the range \[0, inf\) or a str among \{'auto'\}"),
    "batch_size": ([0, 2.5, "large", None], r"an int in the range \[1, inf\) or a str among \{'auto'\}"),
    "learning_rate_init": ([0, -1e-3, np.nan, np.inf, "1"], r"a float in the range \(0.0, inf\)"),
    "weight_decay": ([-0.1, np.nan, "none", None], r"a float in the range \[0.0, inf\)"),
    "ema_decay": ([-0.1, 1.0, 2, np.nan, None], r"a float in the range \[0.0, 1.0\)"),
    "early_stopping": (["yes", 0.5, None], "an instance of 'bool'"),
    "validation_fraction": ([0.0, 1.0, np.nan, "10%"], r"a float in the range \(0.0, 1.0\)"),
    "n_iter_no_change": ([0, 1.5, None], r"an int in the range \[1, inf\)"),
    "tol": ([-1e-3, np.nan, None], r"a float in the range \[0.0, inf\)"),
    "warm_start": (["yes", None], "an instance of 'bool'"),
    "inference_dtype": (["float16", np.float64, 64], "(?=.*float32).*float64"),
    "device": ([0, None], "an instance of 'str'"),
    "random_state": ([-1, 2**32, "0", 1.5], r"an int in the range \[0, 4294967295\]"),
    "verbose": ([-1, "loud", None], r"an int in the range \[0, inf\)"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_fault_37_bad_parameters(name, X, array_flow):
    values, wanted = BAD_PARAMETERS[name]
    for value in values:
        flow = quick(**{name: value})
        for method in ("fit", "partial_fit"):
            with pytest.raises(InvalidParameterError, match=f"(?s){name}.*{wanted}"):
                getattr(flow, method)(X)
        unfitted_still(flow)
        fitted = copy.deepcopy(array_flow).set_params(**{name: value})
        with unharmed(fitted, X), pytest.raises(InvalidParameterError, match=name):
            fitted.fit(X)


def test_fault_37_every_parameter_is_tried():
    assert list(BAD_PARAMETERS) == list(inspect.signature(InterpolantFlow).parameters)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"velocity": MLP(width=0)}, "MLP: width must be an integer >= 1, got 0"),
        ({"velocity": MLP(n_blocks=1.5)}, r"MLP: n_blocks must be an integer >= 1, got 1\.5"),
        (
            {"velocity": MLP(activation="relu")},
            r"activation='relu' is not one of \['silu', 'softplus', 'tanh'\]",
        ),
        ({"velocity": ResidualMLP(depth=0)}, "ResidualMLP: depth must be an integer >= 1, got 0"),
        (
            {"velocity": ResidualMLP(divergence="no")},
            r"divergence='no' is not one of \['exact', 'hutchinson'\]",
        ),
        ({"velocity": MLP}, r"velocity=MLP is a class; pass an instance: MLP\(\)"),
        ({"base": StudentT(df=0)}, "StudentT base: df must be > 0, got 0"),
        ({"base": Uniform(1.0, 1.0)}, r"Uniform base: low < high wanted, got 1\.0 and 1\.0"),
        ({"base": Gaussian(mean=[0.0])}, r"Gaussian base: mean of shape \(4,\).*got \(1,\) and \(4, 4\)"),
        ({"base": Gaussian(covariance=-np.eye(4))}, "covariance is not positive definite"),
        (
            {"base": torch.distributions.Normal(torch.zeros(3), 1.0)},
            r"a distribution over \(\) or \(4,\) wanted, got batch shape \(3,\)",
        ),
        ({"preprocessor": Whiten(floor=-1.0)}, r"floor.*-1\.0"),
        ({"preprocessor": Gaussianize(density="yes")}, "density.*'yes'"),
        ({"solver": Grid(tol=0.0)}, r"tol must be > 0, got 0\.0"),
        (
            {"solver": RungeKutta(method="rk5")},
            r"method='rk5' is not one of \['euler', 'heun', 'midpoint', 'rk4'\]",
        ),
        ({"solver": RungeKutta(n_steps=0)}, "n_steps must be an integer >= 1, got 0"),
        ({"solver": TorchDiffEq(method="rk5")}, "method='rk5' is not one of"),
        ({"solver": DormandPrince(max_steps=0)}, "max_steps.*0"),
        ({"device": "gpu"}, r"device='gpu' is not a device; there are 'auto' and \['cpu'"),
    ],
    ids=str,
)
def test_fault_37_bad_parameters_of_parts(part, message, X, array_flow):
    """Refused by ``fit``, before time is spent on training, and not first when the model is used."""
    flow = quick(**part)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        flow.fit(X)
    unfitted_still(flow)
    fitted = copy.deepcopy(array_flow).set_params(**part)
    with unharmed(fitted, X), pytest.raises(ValueError, match=f"(?s){message}"):
        fitted.fit(X)


def test_fault_38_unfitted(X):
    flow = quick()
    calls = {
        **SCORING,
        **INVERSE,
        "sample": lambda flow, X: flow.sample(3),
        "names": lambda flow, X: flow.get_feature_names_out(),
        "history": lambda flow, X: type(flow).history_.fget(flow),
    }
    for call in calls.values():
        with pytest.raises(NotFittedError, match="This InterpolantFlow instance is not fitted yet"):
            call(flow, X)
    unfitted_still(flow)
    assert not hasattr(flow, "history_")


class Counting(StandardNormal):
    """Keeps the sizes of the draws asked of it."""

    asked: list = []

    def sample(self, n, generator):
        self.asked.append(n)
        return super().sample(n, generator)


def test_fault_39_bad_number_of_samples(X, array_flow, monkeypatch):
    for value in (0, -1, 2.5, "3", None, True, math.nan, [3], 10.0):
        with (
            unharmed(array_flow, X),
            pytest.raises(ValueError, match="Invalid value for 'n_samples'") as error,
        ):
            array_flow.sample(value)
        assert repr(value) in str(error.value)
    for value in (10**15, 2**62, 10**30):
        with unharmed(array_flow, X), pytest.raises(MemoryError, match=f"n_samples={value} rows need .* GB"):
            array_flow.sample(value)
    with pytest.raises(MemoryError, match="n_samples=1000000000000000 rows need 32,000,000 GB"):
        array_flow.sample(10**15)
    assert array_flow.sample(np.int64(3)).shape == (3, 4)

    flow = quick(base=Counting()).fit(X)
    module = siflow_sk.flow._tensors
    chunks = module.row_chunks
    monkeypatch.setattr(module, "row_chunks", lambda n, *_: chunks(n, 2**20))
    monkeypatch.setattr(Counting, "asked", [])
    assert np.isfinite(flow.sample(1200)).all()
    assert len(Counting.asked) == 3
    assert sum(Counting.asked) == 1200


def test_fault_39_more_than_the_machine_holds(X, array_flow):
    with (
        unharmed(array_flow, X),
        pytest.raises(MemoryError, match="rows need 32,000 GB; draw fewer at a time"),
    ):
        array_flow.sample(10**12)


# -- extreme points ----------------------------------------------------------------------------------------

LINEAR_TAILS = ["none", "standardize", "whiten"]


def along_rays(flow, X, sizes):
    """Log-densities (rays, sizes) on rays from the mean, sizes in standard deviations."""
    directions = np.vstack([np.eye(4), -np.eye(4), np.full((1, 4), 0.5), rows(3, 4, seed=5)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = X.mean(0) + X.std(0) * directions[:, None] * np.asarray(sizes)[:, None]
    return flow.score_samples(points.reshape(-1, 4)).reshape(len(directions), len(sizes))


@pytest.mark.parametrize("preprocessor", [*LINEAR_TAILS, "gaussianize"])
@pytest.mark.parametrize("n", [60, 300])
def test_fault_40_far_points(preprocessor, n):
    table = np.exp(rows(n))
    flow = quick(preprocessor=preprocessor).fit(table)
    values = along_rays(flow, table, 10.0 ** np.arange(3, 31))
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=1) < 0).all()
    assert (values[:, 0] < flow.score_samples(table).min()).all()
    if preprocessor != "gaussianize":
        # quadratic tails: half the squared distance, up to what the flow does near the data
        assert (values[:, 0] < -1e5).all()
        np.testing.assert_allclose(values[:, 1:] / values[:, :-1], 100.0, rtol=0.5)
    else:
        # logarithmic tails: 27 orders of magnitude still cost tens of nats
        assert (values[:, -1] < flow.score_samples(table).min() - 50).all()
    # near rows do not notice their far neighbours
    with_outlier = np.vstack([table, np.full((1, 4), 1e30)])
    np.testing.assert_array_equal(flow.score_samples(with_outlier)[:-1], flow.score_samples(table))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("preprocessor", [*LINEAR_TAILS, "gaussianize"])
@pytest.mark.parametrize("n", [60, 300])
def test_fault_41_points_beyond_all_measure(preprocessor, n, dtype):
    table = np.exp(rows(n))
    flow = quick(preprocessor=preprocessor, inference_dtype=dtype).fit(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = along_rays(flow, table, [1e30, 1e160, 1e300])
    assert not np.isnan(values).any()
    assert (values[:, 1:] <= values[:, :1]).all()
    if preprocessor != "gaussianize":
        assert (values[:, 1:] == -np.inf).all()


# -- the refit that fails ----------------------------------------------------------------------------------


class Failing(Linear):
    """Raises ``error`` once training asks for the velocity."""

    error = None

    def velocity(self, t, x0, x1):
        if Failing.error is not None:
            raise Failing.error
        return super().velocity(t, x0, x1)


class FailingSolver(Grid):
    """Raises when the grid is chosen, after training."""

    armed = False

    def calibrate(self, f, state, t0, t1, outcome):
        if FailingSolver.armed and len(state[0]) > 1:
            raise RuntimeError("no grid")
        return super().calibrate(f, state, t0, t1, outcome)


def test_fault_50_failed_refit(X, frame, monkeypatch):
    fitted = quick(interpolant=Failing(), solver=FailingSolver()).fit(frame)
    other = pd.DataFrame(rows(40, 3, seed=1), columns=["u", "v", "w"])
    with_nan = other.copy()
    with_nan.loc[0, "u"] = np.nan
    faults = {
        "NaN": (with_nan, {}, ValueError, "Input X contains NaN"),
        "one row": (other.iloc[:1], {}, ValueError, r"1 sample\(s\)"),
        "identical rows": (other * 0.0, {}, ValueError, "all samples are identical"),
        "weights": (other, {"sample_weight": -np.ones(40)}, ValueError, "Negative values"),
        "text": (other.assign(w="x"), {}, ValueError, "could not convert string"),
    }
    for bad, kwargs, error, message in faults.values():
        for method in ("fit", "fit_transform"):
            with unharmed(fitted, frame), pytest.raises(error, match=message):
                getattr(fitted, method)(bad, **kwargs)
            assert list(fitted.feature_names_in_) == NAMES
            assert fitted.n_features_in_ == 4
    for error in (MemoryError("out of memory"), RuntimeError("device"), KeyboardInterrupt()):
        monkeypatch.setattr(Failing, "error", error)
        with unharmed(fitted, frame), pytest.raises(type(error)):
            fitted.fit(other)
        with unharmed(fitted, frame), pytest.raises(type(error)):
            fitted.partial_fit(frame)
    monkeypatch.setattr(Failing, "error", None)
    monkeypatch.setattr(FailingSolver, "armed", True)
    with unharmed(fitted, frame), pytest.raises(RuntimeError, match="no grid"):
        fitted.fit(other)
    monkeypatch.setattr(FailingSolver, "armed", False)
    fitted.fit(other)  # and it can still be fitted
    assert list(fitted.feature_names_in_) == ["u", "v", "w"]


# -- the classes of our warnings ---------------------------------------------------------------------------


def test_warnings_can_be_filtered_by_class():
    assert issubclass(DataWarning, UserWarning)
    assert issubclass(TrainingWarning, ConvergenceWarning)
    assert issubclass(SolverWarning, ConvergenceWarning)
    assert not issubclass(TrainingWarning, SolverWarning)
    assert not issubclass(SolverWarning, TrainingWarning)
    for cls in (DataWarning, TrainingWarning, SolverWarning):
        assert cls.__module__ == "siflow_sk.exceptions"
        assert getattr(siflow_sk.exceptions, cls.__name__).__doc__
