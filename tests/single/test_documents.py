"""What README and notes name exists."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "NOTES.md", "launch/README.md")
PLACEHOLDERS = {"launch/recipes/X.toml"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_and_module_in_a_document_exists(name: str) -> None:
    document = REPOSITORY / name
    text = document.read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:app|models|launch|tests)/[\w/.-]*\w", text)) - PLACEHOLDERS
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    modules = set(re.findall(r"python -m (tests\.[\w.]*\w)", text))
    assert paths and (links or name == "NOTES.md")
    missing = [path for path in paths if not list(REPOSITORY.glob(path))]
    missing += [link for link in links if not (document.parent / link).exists()]
    missing += [module for module in modules if importlib.util.find_spec(module) is None]
    assert missing == []
