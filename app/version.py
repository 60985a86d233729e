"""Which code runs: compared between ranks, recorded in logs and model cards."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path


def code_version() -> dict[str, str]:
    """What must be the same on all ranks: our sources and the packages that compute."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("app/**/*.py"), *root.glob("models/**/*.py")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {name: _version(name) for name in ("tensorflow", "keras", "horovod", "numpy")}
    return {"code": digest.hexdigest()[:16], **versions}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
