"""The tools beside the tests: what mutants are made, what is said of them and of slow tests."""

import sys
import xml.etree.ElementTree as ElementTree

import mutate
import pytest
import slow_report

SOURCE = '''"""Says 1 + 1."""

def f(x: int = 2) -> float:
    """And 3."""
    if x <= 0 and not x == -5:
        raise ValueError(f"{x + 1} is no {7}")
    return x * 0.5
'''


@pytest.fixture(scope="module")
def known():
    """All mutants, (record, source)."""
    return list(mutate.all_mutants())


def test_mutants_change_one_thing_that_computes():
    found = [(m["kind"], m["was"], m["is"]) for m, _ in mutate.mutants(SOURCE)]
    assert sorted(found) == sorted(
        [
            ("logic", "x <= 0 and (not x == -5)", "x <= 0 or not x == -5"),
            ("comparison", "x <= 0", "x < 0"),
            ("constant", "0", "1"),
            ("sign", "not x == -5", "x == -5"),
            ("comparison", "x == -5", "x != -5"),
            ("sign", "-5", "5"),
            ("constant", "5", "10"),
            ("return", "return x * 0.5", "return None"),
            ("arithmetic", "x * 0.5", "x / 0.5"),
            ("constant", "0.5", "1.0"),
        ]
    )


def test_every_mutant_is_another_program_and_the_source_comes_back():
    texts = [text for _, text in mutate.mutants(SOURCE)]
    assert len(set(texts)) == len(texts)
    for text in texts:
        compile(text, "mutant", "exec")
    assert texts == [text for _, text in mutate.mutants(SOURCE)]


def test_every_numerical_module_has_mutants_and_tests(known):
    assert {record["module"] for record, _ in known} == set(mutate.TESTS)
    maps = {path.stem for path in (mutate.ROOT / "siflow_sk" / "preprocessing").glob("_[a-z]*.py")}
    assert {name.removeprefix("preprocessing.") for name in mutate.TESTS} >= maps
    for names in mutate.TESTS.values():
        for name in names:
            file, *one = name.split("::")
            text = (mutate.ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
            assert all(f"def {test}(" in text for test in one)


def test_a_mutant_is_found_again_when_the_code_above_it_changes():
    longer = "import math\n\nONE = 1\n\n\n" + SOURCE.replace("And 3.", "And others.")
    keys = [[mutate.key_of({"module": "m"} | m) for m, _ in mutate.mutants(s)] for s in (SOURCE, longer)]
    assert len(set(keys[0])) == len(keys[0])
    assert set(keys[0]) < set(keys[1])


def test_samples_have_the_same_share_of_every_module_and_no_mutant_in_common(known):
    first = mutate.sampled(known, set(), 1)[: len(known) // 10]
    for module in mutate.TESTS:
        share, of = (sum(r["module"] == module for r, _ in part) for part in (first, known))
        assert abs(share - of / 10) <= 2
    taken = {mutate.key_of(r) for r, _ in first}
    rest = {mutate.key_of(r) for r, _ in mutate.sampled(known, taken, 2)}
    assert not rest & taken
    assert len(rest) + len(taken) == len(known)


def test_what_runs_the_line_is_tried_and_the_quickest_first():
    tests = {"slow": [3.0, [1, 2]], "quick": [1.0, [2]], "other": [0.1, [7]], "long": [40.0, [2]]}
    assert list(mutate.noticed_by(tests, {"line": 2, "end": 3})) == ["quick", "slow"]
    assert list(mutate.noticed_by(tests, {"line": 9, "end": 9})) == ["other", "quick", "slow"]


def test_nothing_is_tried_with_tests_that_fail_anyway(tmp_path, monkeypatch, capsys):
    mutant = next(mutate.mutants("a = 1 + b"))[0] | {"module": "solvers._grid"}, "a = 1 - b"
    monkeypatch.setattr(mutate, "all_mutants", lambda: [mutant])
    monkeypatch.setattr(mutate, "TESTS", {"solvers._grid": ["test_solvers"]})
    monkeypatch.setattr(mutate, "warm_up", lambda: None)
    monkeypatch.setattr(mutate, "PAGE", tmp_path / "page.rst")
    monkeypatch.setattr(sys, "argv", ["mutate.py", "--output", str(tmp_path / "mutants.jsonl")])
    # no test passes; tests that pass in one order fail in another
    for seen, ended in (({}, "survived"), ({"test": [1.0, [1]]}, "killed")):
        monkeypatch.setattr(mutate, "watched", lambda module, seen=seen: seen)
        monkeypatch.setattr(mutate, "tried", lambda *of, ended=ended: (ended, 1.0, 1.0))
        with pytest.raises(SystemExit):
            mutate.main()
        assert "the tests of solvers._grid fail without any mutant" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_page_counts_the_first_and_the_last_result_of_each_mutant():
    own = next(mutate.mutants("a = 1 + b"))[0] | {"module": "solvers", "seed": 3}
    records = [
        own | {"ended": "survived"},
        own | {"number": 9, "ended": "time"},
        own | {"ended": "killed"},
    ]
    page = mutate.page(records, {"solvers": 40}, {})
    assert "2 of 40 mutants were tried, and 0 (0.0 %) survive" in page
    assert "   * - 3\n     - 2\n     - 1 (50.0 %)\n     - 0\n     - 0 (0.0 %)\n" in page
    assert "Survivors" not in page
    assert "``1 + b``" in mutate.page(records[:2], {"solvers": 40}, {})


def test_a_survivor_that_is_no_error_is_counted_apart_with_its_reason():
    own = next(mutate.mutants("a = 1 + b"))[0] | {"module": "solvers", "seed": 3, "ended": "survived"}
    reasons = {("solvers", "a = 1 + b", "1 + b", "1 - b"): "b is zero"}
    page = mutate.page([own, own | {"number": 9, "was": "1"}], {"solvers": 40}, reasons)
    assert "2 (100.0 %) survive.\nOf these, 1 change no result" in page
    assert "below; 1 (50.0 %) are left" in page
    assert page.count("b is zero") == 1
    assert page.index("Survivors that are no errors") < page.index("b is zero")


def test_what_is_said_to_be_no_error_is_a_mutant(known):
    assert set(mutate.without_error()) <= {mutate.place_of(r) for r, _ in known}


def test_the_report_on_slow_tests():
    root = ElementTree.fromstring(
        '<testsuites><testsuite timestamp="2026-01-02T03:04:05" time="1234.5">'
        '<testcase classname="" name="tests.test_cuda" time="0"><skipped/></testcase>'
        '<testcase classname="tests.test_a" name="test_b" time="61.2"><properties>'
        '<property name="kills" value="24"/><property name="slowest" value="0.0123456"/></properties>'
        '</testcase><testcase classname="tests.test_a" name="test_c" time="1"><failure/></testcase>'
        "</testsuite></testsuites>"
    )
    page = slow_report.page(root)
    assert "began 2026-01-02: 2 tests, 1 passed, 1 failed, 0 skipped" in page
    assert "kills: 24; slowest: 0.0123" in page
    assert "``test_a::test_c``\n     - failed" in page
