"""What both commands print and write."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.advice.model import Line
from app.advice.units import ms_text, size_text
from app.errors import UserError
from app.rundir.contents import write_file


def line_text(line: Line) -> str:
    """ "1.2 ms + bytes / (310 MB/s)"."""
    if line.beta <= 0:
        return f"{ms_text(line.alpha)} ms, whatever the size"
    return f"{ms_text(line.alpha)} ms + bytes / ({size_text(1 / line.beta)}/s)"


def write(directory: Path, texts: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
    """Write NAME.json and NAME.png into a directory. Raises UserError if that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            write_file(directory / f"{name}.json", json.dumps(content, indent=2) + "\n")
        for name, picture in pictures.items():
            (directory / f"{name}.png").write_bytes(picture)
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror or error}") from None
