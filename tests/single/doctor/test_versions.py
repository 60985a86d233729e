"""The doctor's judgement on versions: Python, the pins, and what Horovod was built for."""

import pytest

from app.doctor import facts as local_facts
from app.doctor.versions import (
    judge_built_for,
    judge_packages,
    judge_python,
    parse_pins,
    read_pins,
)
from tests.single.doctor.planted import statuses


def test_our_requirements_are_read_and_satisfied_here():
    pins = read_pins()
    assert pins["tensorflow"] == "2.20.0" and pins["importlib_resources"] and len(pins) > 15
    installed = local_facts.gather(sorted(pins), "/")["packages"]
    assert statuses(judge_packages(installed, pins)) == ["ok"]


def test_pins_are_read_with_extras_and_comments():
    text = "# a==1\ntensorflow[and-cuda]==2.20.0\nnumpy==2.4.6   # why\nrich>=3\n"
    assert parse_pins(text) == {"tensorflow": "2.20.0", "numpy": "2.4.6"}


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.14", "problem"), ("3.11.0", "ok"), ("3.13.9", "ok"), ("3.14.0rc1", "problem")],
)
def test_python_must_be_supported(version, status):
    assert judge_python(version).status == status


@pytest.mark.parametrize(
    ("package", "version", "status", "word"),
    [
        ("tensorflow", "2.21.0rc1", "problem", "does not compile"),
        ("tensorflow", "2.15.1", "problem", "Keras 2"),
        ("keras", "2.15.0", "problem", "Keras 3"),
        ("setuptools", "81.0.0", "problem", "pkg_resources"),
        ("cmake", "4.0.3", "warning", "cmake 4"),
    ],
)
def test_a_known_trap_is_named_once_with_its_way_out(package, version, status, word):
    result = judge_packages({package: version}, {package: "9.9"})
    assert [(r.status, r.name) for r in result] == [(status, package)]
    assert version in result[0].found and word in result[0].found
    assert f"pip install '{package}==9.9'" in result[0].advice


def test_packages_are_sorted_into_pinned_missing_and_other():
    installed = {"numpy": "2.5.0", "keras": None, "cmake": None, "protobuf": "7.36.2+local"}
    pins = {"numpy": "2.4.6", "keras": "3.15.0", "cmake": "3.31.10", "protobuf": "7.36.2"}
    results = judge_packages(installed, pins)
    assert [(r.status, r.found) for r in results] == [
        ("ok", "1 as pinned: protobuf 7.36.2+local"),
        ("problem", "not installed: keras"),
        ("warning", "numpy 2.5.0 (tested with 2.4.6)"),
    ]


def test_without_requirements_the_traps_are_still_found(tmp_path):
    results = judge_packages({"setuptools": "82.0"}, read_pins(tmp_path / "none.txt"))
    assert statuses(results) == ["warning", "problem"]


def test_a_horovod_of_another_tensorflow_is_a_problem():
    assert judge_built_for("2.20.0", "2.20.0") == []
    assert judge_built_for(None, "2.20.0") == []
    (result,) = judge_built_for("2.19.0", "2.20.0")
    assert result.status == "problem" and "2.19.0" in result.found and "2.20.0" in result.found
