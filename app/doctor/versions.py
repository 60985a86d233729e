"""The doctor on versions, read from package metadata: no package is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from app.doctor.probe import OK, PROBLEM, WARNING, Result

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
BUILD_TOOLS = ("wheel", "cmake")  # not kept in a container image
MAKE_SETUP = "run 'make setup': it installs what requirements.txt pins and builds Horovod for it"
REBUILD = "run 'make setup': it builds Horovod for the TensorFlow of requirements.txt"


class Trap(NamedTuple):
    """A package whose versions are known not to work, and why."""

    package: str
    includes: Callable[[tuple[int, ...]], bool]
    status: Literal["warning", "problem"]
    why: str


TRAPS = (
    Trap("tensorflow", lambda v: v >= (2, 21), PROBLEM, "Horovod 0.28.1 does not compile for it"),
    Trap("tensorflow", lambda v: v < (2, 16), PROBLEM, "TensorFlow before 2.16 is for Keras 2"),
    Trap("keras", lambda v: v[:1] != (3,), PROBLEM, "Lockstep is written for Keras 3"),
    Trap(
        "setuptools",
        lambda v: v >= (81,),
        PROBLEM,
        "TensorBoard 2.20 imports pkg_resources, which setuptools 81 removed",
    ),
    Trap("cmake", lambda v: v >= (4,), WARNING, "cmake 4 refuses the gloo that comes with Horovod"),
)


def parse_pins(requirements: str) -> dict[str, str]:
    """Package -> version, from the lines `name==version` of a requirements file."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;#]+)", requirements, re.MULTILINE)
    return dict(pins)


def read_pins(path: Path = REQUIREMENTS) -> dict[str, str]:
    """The pins of requirements.txt; none if the file is missing or cannot be read."""
    try:
        return parse_pins(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        return {}


def numbers(version: str) -> tuple[int, ...]:
    """`2.21.0rc1` -> (2, 21, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def judge_python(version: str, executable: str = sys.executable) -> Result:
    """Lockstep runs on CPython 3.11 to 3.13."""
    found = f"{version}, {executable}"
    if (3, 11) <= numbers(version)[:2] <= (3, 13):
        return Result(OK, "python", found)
    advice = "use Python 3.11 to 3.13: PYTHON=python3.11 make setup"
    return Result(PROBLEM, "python", found, advice)


def judge_packages(installed: Mapping[str, str | None], pins: Mapping[str, str]) -> list[Result]:
    """A line each for packages as pinned, missing and different, and for each trap."""
    needed = {name: installed.get(name) for name in sorted({*installed, *pins})}
    missing = [name for name, v in needed.items() if v is None and name not in BUILD_TOOLS]
    trapped = [_fall(trap, needed[trap.package], pins) for trap in TRAPS if trap.package in needed]
    traps = [result for result in trapped if result]
    same: list[str] = []
    other: list[str] = []
    for name, version in needed.items():
        if version and name in pins and name not in {trap.name for trap in traps}:
            as_pinned = version.partition("+")[0] == pins[name]
            (same if as_pinned else other).append(f"{name} {version}")
    results = []
    if same:
        results.append(Result(OK, "packages", f"{len(same)} as pinned: {', '.join(same)}"))
    if not pins:
        advice = "restore requirements.txt beside app/: only known bad versions can be found now"
        results.append(Result(WARNING, "packages", "requirements.txt cannot be read", advice))
    if missing:
        found = f"not installed: {', '.join(missing)}"
        results.append(Result(PROBLEM, "packages", found, MAKE_SETUP))
    if other:
        tested = [f"{words} (tested with {pins[words.partition(' ')[0]]})" for words in other]
        results.append(Result(WARNING, "packages", ", ".join(tested), MAKE_SETUP))
    return results + traps


def _fall(trap: Trap, version: str | None, pins: Mapping[str, str]) -> Result | None:
    """The result for a package with a version that does not work."""
    if version is None or not trap.includes(numbers(version)):
        return None
    pin = pins.get(trap.package)
    advice = f"pip install '{trap.package}=={pin}', or {MAKE_SETUP}" if pin else MAKE_SETUP
    return Result(trap.status, trap.package, f"{version}: {trap.why}", advice)


def judge_built_for(built_for: str | None, tensorflow: str | None) -> list[Result]:
    """A Horovod binary works only with the TensorFlow that it was compiled against."""
    if built_for and tensorflow and built_for != tensorflow:
        found = f"compiled for TensorFlow {built_for}, but {tensorflow} is installed"
        return [Result(PROBLEM, "horovod wheel", found, f"{REBUILD} (pip may reuse an old wheel)")]
    return []


def check_versions(python: str, facts: Mapping[str, Any], pins: Mapping[str, str]) -> list[Result]:
    """Whether versions fit each other and requirements.txt."""
    packages: Mapping[str, str | None] = facts["packages"]
    return [
        judge_python(python),
        *judge_packages(packages, pins),
        *judge_built_for(facts["horovod_built_for"], packages.get("tensorflow")),
    ]


def package_names(pins: Mapping[str, str]) -> list[str]:
    """The packages to look for: the pinned ones, and those with versions known not to work."""
    return sorted({*pins, *(trap.package for trap in TRAPS), "horovod"})
