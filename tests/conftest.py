"""What tests of several folders need."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is no reason for a test to fail.
settings.register_profile("lockstep", deadline=None)
settings.load_profile("lockstep")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file and returns its path."""

    def to(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to
