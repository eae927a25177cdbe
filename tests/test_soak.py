"""The soak: rounds that repeat, a verdict that sees growth, a command that stops at its ceiling."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from discovery import all_estimators

from siflow_sk import InterpolantFlow, InterpolantSearchCV
from siflow_sk.benchmarks import _soak, _soak_report, _soak_rounds
from siflow_sk.benchmarks.__main__ import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records():
    return [json.loads(line) for line in Path("benchmarks-soak.jsonl").read_text().splitlines()]


def test_every_public_estimator_has_its_rounds():
    alone = [cls.__name__ for cls in all_estimators() if cls is not InterpolantSearchCV]  # fits the others
    assert list(_soak_rounds.ESTIMATORS) == alone


@pytest.fixture
def light(monkeypatch):
    """Rounds that cost nothing, the fourth of which fails."""

    def play(seed, folder):
        assert folder.is_dir()
        if seed == 3:
            raise AssertionError("after save and load, sample answers otherwise")
        return "InterpolantFlow"

    monkeypatch.setattr(_soak, "play", play)


def test_rounds_are_played_recorded_and_reported(here, capsys):
    assert main(["soak", "--quick", "--rounds", "3", "--seeds", "3"]) == 0
    run, *rounds = records()
    assert run["circumstances"]["command"].endswith("soak --quick --rounds 3 --seeds 3")
    assert [r["seed"] for r in rounds] == [3, 4, 5]
    assert [r["estimator"] for r in rounds] == list(_soak_rounds.ESTIMATORS)[3:6]
    for r in rounds:
        assert r["resident"] > 2**20
        assert r["peak"] >= r["resident"]
        assert r["threads"] >= 1
    page = Path("benchmarks-soak-quick.rst").read_text(encoding="utf-8")
    assert "3 rounds in" in page
    assert "seeds 3 to 5.  Rounds that failed: 0." in page


def test_a_failed_round_is_told_and_does_not_end_the_soak(here, light, capsys):
    assert main(["soak", "--quick", "--rounds", "6"]) == 1
    told = capsys.readouterr()
    assert "FAILED: python -m siflow_sk.benchmarks soak --seeds 3 --rounds 1" in told.out
    assert "AssertionError" in told.err
    assert [r.get("error") for r in records()[1:]].count(None) == 5
    page = Path("benchmarks-soak-quick.rst").read_text(encoding="utf-8")
    assert "Rounds that failed: 1." in page
    assert "Estimators: InterpolantFlow." in page
    assert "AssertionError: after save and load, sample answers otherwise" in page


def test_the_ceiling_ends_it(here, light, capsys):
    assert main(["soak", "--quick", "--ceiling", "0.001"]) == 1
    assert "seed 0: " in capsys.readouterr().out
    assert len(records()) == 2


def test_the_page_is_about_the_last_run(here, light):
    main(["soak", "--quick", "--rounds", "2"])
    main(["soak", "--quick", "--rounds", "1", "--seeds", "8"])
    before = records()
    assert main(["soak", "--quick", "--report-only"]) == 0
    assert records() == before
    assert "1 rounds in" in Path("benchmarks-soak-quick.rst").read_text(encoding="utf-8")


def test_the_load_is_kept(here, monkeypatch):
    """Work of 20 ms at a tenth of a core takes 200 ms."""
    import time

    def play(seed, folder):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return ""

    monkeypatch.setattr(_soak, "play", play)
    main(["soak", "--quick", "--rounds", "4", "--load", "0.1"])
    rounds = records()[1:]
    assert rounds[-1]["minutes"] * 60.0 >= 0.6  # three pauses lie before it


def test_a_model_that_comes_back_changed_is_seen(tmp_path, monkeypatch):
    def changed(path):
        flow = original(path)
        flow.preprocessor_ = flow.base_ = None
        return InterpolantFlow(max_iter=3, polish=0).fit(np.random.default_rng(0).normal(size=(60, 3)))

    original = _soak_rounds.load
    first, n = list(_soak_rounds.ESTIMATORS).index("InterpolantFlow"), len(_soak_rounds.ESTIMATORS)
    seed = next(s for s in range(first, 50 * n, n) if _features(s) == 3)
    _soak_rounds.play(seed, tmp_path)
    monkeypatch.setattr(_soak_rounds, "load", changed)
    with pytest.raises(AssertionError, match=r"after save and load, .* of InterpolantFlow answers otherwise"):
        _soak_rounds.play(seed, tmp_path)


def _features(seed):
    return _soak_rounds._table("InterpolantFlow", np.random.default_rng(seed))[0].shape[1]


# -- the verdict ---------------------------------------------------------------------------------------------


def wandering(rng, n):
    """Noise whose neighbours resemble each other, as memory does: forgotten in 20 steps."""
    noise, out = rng.standard_normal(n), np.empty(n)
    out[0] = 0.0
    for i in range(1, n):
        out[i] = 0.95 * out[i - 1] + noise[i]
    return out


def test_the_slope_and_its_error_hold_on_correlated_noise():
    """Slopes of 200 runs over their errors are spread like Student's t with 18 degrees, or nearly so."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        slope, error = _soak_report.growth(0.01 * np.arange(4000) + wandering(rng, 4000))
        ratios.append((slope - 0.01) / error)
    assert 0.8 < np.std(ratios) < 1.5  # sqrt(18/16) = 1.06, a little more for what batches still share
    assert abs(np.mean(ratios)) < 0.3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.r_[np.linspace(0, 500, 500), np.full(1500, 500.0)], "no growth"),  # warm-up alone
        (500.0 + 0.05 * np.arange(2000), "grows"),
        (500.0 + 0.005 * np.arange(2000), "no growth that counts"),
        (500.0 - 0.05 * np.arange(2000), "no growth"),
        (np.full(2000, 6), "no growth"),
        (np.repeat([6, 7, 8, 9], 500), "grows"),
        (np.arange(30), "too few rounds"),
    ],
)
def test_verdicts(values, expected):
    noise = np.random.default_rng(0).standard_normal(len(values)) * (values[-1] >= 100)
    assert _soak_report.verdict(values + noise) == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallinfo2 is glibc's")
def test_the_state_of_the_process_sees_what_is_opened_and_allocated(tmp_path):
    before = _soak.state()
    block = np.ones(8_000_000)  # more than malloc takes from what has been freed
    with open(tmp_path / "file", "w"):
        after = _soak.state()
    assert after["descriptors"] == before["descriptors"] + 1
    assert 63e6 < after["allocated"] - before["allocated"] < 66e6
    assert after["resident"] - before["resident"] > 40e6
    del block
