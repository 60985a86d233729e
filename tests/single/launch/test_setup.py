"""What launch/setup.sh does not touch: what is not its own."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def refused(venv: Path) -> str:
    """What it says, once it has refused to make the virtual environment there."""
    found = subprocess.run(
        [str(ROOT / "launch" / "setup.sh"), "requirements.txt"],
        env={**os.environ, "LOCKSTEP_VENV": str(venv)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2, found.stderr
    return found.stderr


def test_a_folder_that_is_no_virtual_environment_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("a year's work")
    assert f"{tmp_path} is not a virtual environment" in refused(tmp_path)
    assert mine.read_text() == "a year's work"


def test_the_virtual_environment_of_another_clone_is_left_alone(tmp_path: Path) -> None:
    venv, other = tmp_path / "venv", tmp_path / "clone"
    other.mkdir()
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("")
    (venv / "lockstep-clone").write_text(f"{other}\n")
    assert f"is that of the clone in {other}: unset LOCKSTEP_VENV" in refused(venv)
    assert (venv / "pyvenv.cfg").exists()
