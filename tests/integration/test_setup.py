"""launch/setup.sh, with a stand-in for Python, so that it takes no minutes."""

import os
import shutil
import stat

import pytest

from tests.integration.launching import ROOT, run

# Answers what setup.sh asks of a Python; `-m venv DIR` makes one whose pip does as PIP says.
PYTHON = """#!/bin/bash
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
  *"-m pip"*) echo "pip $*" >>"$CALLS"; [[ $PIP == works ]] || exit 1 ;;
  *check.py*) echo check >>"$CALLS" ;;
  *) exit 0 ;;
esac
"""
BUILD = """#!/bin/bash
echo build >>"$CALLS"; echo /cache/horovod.whl
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what setup.sh reads, with stand-ins for Python and the build of Horovod."""
    home = tmp_path / "checkout"
    shutil.copytree(ROOT / "launch" / "horovod", home / "launch" / "horovod")
    shutil.copy(ROOT / "launch" / "setup.sh", home / "launch")
    shutil.copy(ROOT / "requirements.txt", home)
    executable(home / "launch" / "horovod" / "build.sh", BUILD)
    executable(tmp_path / "python", PYTHON)
    (tmp_path / "calls").touch()
    return home


def setup(checkout, pip="works", **environ):
    place = checkout.parent
    return run(
        ["launch/setup.sh", "requirements.txt"],
        timeout_s=30,
        cwd=checkout,
        PYTHON=str(place / "python"),
        CALLS=str(place / "calls"),
        PIP=pip,
        **{"LOCKSTEP_VENV": ".venv", **environ},
    )


def calls(checkout):
    path = checkout.parent / "calls"
    lines = [line.split()[0] for line in path.read_text().splitlines()]
    path.write_text("")
    return lines


def test_the_second_set_up_does_nothing(checkout):
    assert setup(checkout).code == 0
    assert calls(checkout) == ["pip", "build", "pip", "check"]
    assert setup(checkout).code == 0
    assert calls(checkout) == []


def test_other_requirements_make_another_environment(checkout):
    setup(checkout)
    calls(checkout)
    with (checkout / "requirements.txt").open("a") as file:
        file.write("another==1.0\n")
    setup(checkout)
    assert calls(checkout) == ["pip", "build", "pip", "check"]


def test_a_failed_set_up_is_not_trusted_and_started_afresh(checkout):
    failed = setup(checkout, pip="fails")
    assert failed.code == 2, failed.all
    assert "pip install failed" in failed.err
    (checkout / ".venv" / "half-made").touch()
    calls(checkout)
    assert setup(checkout).code == 0
    assert calls(checkout) == ["pip", "build", "pip", "check"]
    assert not (checkout / ".venv" / "half-made").exists()


def test_a_missing_compiler_is_named_with_its_package(checkout):
    tools = checkout.parent / "tools"
    tools.mkdir()
    for tool in ("bash", "cat", "dirname", "flock", "make", "readlink", "sha256sum", "cut"):
        os.symlink(shutil.which(tool), tools / tool)
    done = setup(checkout, PATH=str(tools))
    assert done.code == 2, done.all
    assert done.err.count("\n") == 1, done.all
    assert "missing packages: g++ (Debian: apt-get install g++)" in done.err
    assert not (checkout / ".venv").exists()


def test_a_missing_python_is_named(checkout):
    done = run(
        ["launch/setup.sh", "requirements.txt"], timeout_s=30, cwd=checkout, PYTHON="no-such-python"
    )
    assert done.code == 2, done.all
    assert "no no-such-python: install Python 3.11 to 3.13" in done.err


def test_a_folder_that_is_no_virtual_environment_is_left_alone(checkout):
    mine = checkout / ".venv" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("a year's work")
    refused = setup(checkout)
    assert refused.code == 2 and ".venv is not a virtual environment" in refused.err, refused.all
    assert mine.read_text() == "a year's work" and calls(checkout) == []


def test_the_virtual_environment_of_another_clone_is_left_alone(checkout):
    assert setup(checkout).code == 0
    other = checkout.parent / "other"
    shutil.copytree(checkout / "launch", other / "launch")
    shutil.copy(checkout / "requirements.txt", other)
    calls(checkout)
    refused = setup(other, LOCKSTEP_VENV=str(checkout / ".venv"))
    assert refused.code == 2, refused.all
    assert f"is that of the clone in {checkout}: unset LOCKSTEP_VENV" in refused.err
    assert setup(checkout).code == 0 and calls(checkout) == []  # and it is ready as ever
