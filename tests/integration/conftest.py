"""Photos to put something bad into."""

from pathlib import Path

import pytest

from tests.integration.bad_input import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images in two classes."""
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.png").write_bytes(picture(number))
    return tmp_path / "photos"
