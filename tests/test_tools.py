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


def test_every_numerical_module_has_mutants_and_tests():
    assert {record["module"] for record, _ in mutate.all_mutants()} == set(mutate.TESTS)
    for names in mutate.TESTS.values():
        for name in names:
            assert (mutate.ROOT / "tests" / f"{name}.py").is_file()


def test_nothing_is_tried_with_tests_that_fail_anyway(tmp_path, monkeypatch, capsys):
    mutant = next(mutate.mutants("a = 1 + b"))[0] | {"module": "solvers", "code": "x"}, "a = 1 - b"
    monkeypatch.setattr(mutate, "all_mutants", lambda: [mutant])
    monkeypatch.setattr(mutate, "warm_up", lambda: None)
    monkeypatch.setattr(mutate, "tried", lambda module, text: ("killed", 1.0, 1.0))
    monkeypatch.setattr(mutate, "PAGE", tmp_path / "page.rst")
    monkeypatch.setattr(sys, "argv", ["mutate.py", "--output", str(tmp_path / "mutants.jsonl")])
    with pytest.raises(SystemExit):
        mutate.main()
    assert "the tests of solvers fail without any mutant" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_page_counts_the_last_result_of_each_mutant():
    known = next(mutate.mutants("a = 1 + b"))[0] | {"module": "solvers", "code": "x"}
    records = [
        known | {"ended": "survived"},
        known | {"line": 9, "ended": "time"},
        known | {"ended": "killed"},
    ]
    page = mutate.page(records, {"solvers": 40})
    assert "2 of 40 mutants" in page
    assert "0 survived" in page
    assert "Survivors" not in page
    assert "``1 + b``" in mutate.page(records[:2], {"solvers": 40})


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
