"""Texts of others in Markdown, read back with CommonMark (with GitHub's tables) and TensorBoard."""

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tensorboard.plugin_util import markdown_to_safe_html

from app.commands.compare import _markdown
from app.commands.model_card import Check, Export, Signature, model_card
from app.data.plan import DataPlan
from app.evaluation.markdown import CELL_CHARACTERS, cell, code, plain, table
from app.evaluation.report import to_markdown
from app.recipe import load

COMMONMARK = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render
RENDERERS = {"CommonMark": COMMONMARK, "TensorBoard": markdown_to_safe_html}
NASTY = [
    "a|b",
    "<unk>",
    "two\nlines",
    "`code`",
    "*_**__~~x~~",
    "[link](https://example.org)",
    "![image](x.png)",
    "&amp; &lt;",
    "$x$ and $$y$$",
    "\\|\\<\\",
    "snake_case _it_ __init__",
    "# no heading",
    "<!-- gone -->",
]


def shown(rendered: str) -> list[str]:
    """The texts between tags, as a reader sees them."""
    texts = (html.unescape(part) for part in re.split(r"</?[a-zA-Z][^>]*>", rendered))
    return [" ".join(text.split()) for text in texts if text.strip()]


def renders_as_it_is(text: str) -> None:
    for name, render in RENDERERS.items():
        expected = " ".join(text.split())
        lines = shown(render(f"text: {plain(text)}."))
        assert lines == [f"text: {expected}."], name
        cells = shown(render(table(["class", "n"], [[cell(f"x{text}x"), "1"]])))
        assert cells == ["class", "n", " ".join(f"x{text}x".split()), "1"], name


@given(st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|&~$;:\"'=/ab1 \n"), max_size=30))
@example("a|b")
def test_any_signs_are_shown_as_they_are(text: str) -> None:
    renders_as_it_is(text)


@pytest.mark.parametrize("text", NASTY)
def test_names_that_look_like_markdown_are_shown_as_they_are(text: str) -> None:
    renders_as_it_is(text)


def test_a_long_text_is_cut_in_a_cell_and_nothing_else_is() -> None:
    assert cell("x" * 500) == "x" * (CELL_CHARACTERS - 1) + "…"
    assert plain("x" * 500) == "x" * 500


@pytest.mark.parametrize("text", ["plain", "a`b", "``", "`a", "two\nlines", "<unk> \\ *"])
def test_code_is_copied_as_it_is(text: str) -> None:
    (found,) = shown(COMMONMARK(f"{code(text)}"))
    assert found == " ".join(text.split())
    assert "<code>" in COMMONMARK(code(text))


def card_of(folder: Path, name: str) -> str:
    """The card of a run whose names of class, dataset and directory are all `name`."""
    metrics = {"test_recall": {name: 0.5, "fine": 1.0}, "examples_trained_on": 123456}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    config = load(None, {"dataset": name})
    plan = DataPlan(name, "image", (name, "fine"), "f", {"train": 3}, {}, False, (2, 2, 1))
    spec = SimpleNamespace(fit="crop", size=2)
    run: Any = SimpleNamespace(
        directory=folder,
        checkpoint=Path("step-00000001"),
        config=config,
        plan=plan,
        heads=plan.heads,
        temperatures={},
        uses="",
        kind="image",
        class_names=[name, "fine"],
        image_spec=spec,
        image_shape=(2, 2, 1),
        position={"step": 1},
    )
    check = Check("test", 1, 1, 1, 0.0, 1, 1.0, 1.0)
    signatures = (Signature("serving_default", "bytes"),)
    path = folder / name.replace("/", "")
    return model_card(run, Export(path, "keras", None, signatures, 1, (check,)), {})


@pytest.mark.parametrize("name", NASTY)
def test_a_model_card_shows_every_name_as_it_is(tmp_path: Path, name: str) -> None:
    one = " ".join(name.split())
    seen = shown(COMMONMARK(card_of(tmp_path, name)))
    assert seen[0] == f"{' '.join(name.replace('/', '').split())}: 2 classes of images"
    assert f", trained with Lockstep on {one}." in seen
    assert f"classes: {one}, fine" in seen
    assert f"--dataset {one}" in seen
    assert seen[seen.index("test_recall") + 1] == f"{one}: 0.5, fine: 1"
    assert seen[seen.index("examples_trained_on") + 1] == "123456"


@pytest.mark.parametrize("name", NASTY)
def test_a_comparison_shows_every_name_as_it_is(name: str) -> None:
    rows = [["", name, "other"], ["data.dataset", name, "digits"]]
    one = " ".join(name.split())
    seen = shown(COMMONMARK(_markdown(rows)))
    assert seen[1:6] == [one, "other", "data.dataset", one, "digits"]


@pytest.mark.parametrize("name", NASTY)
def test_an_evaluation_shows_every_name_as_it_is(name: str) -> None:
    shares = {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    mistake = {"true": name, "predicted": "fine", "confidence": 0.9, "where": name, "text": name}
    result: dict[str, Any] = dict.fromkeys(("accuracy", "top5_accuracy", "calibration_error"), 0.5)
    result |= {
        "data": name,
        "split": "test",
        "command": f"python -m app evaluate '{name}'",
        "run": name,
        "checkpoint": "step-00000001",
        "fingerprint": "f",
        "examples": 1,
        "bad_examples": [],
        "loss": 0.5,
        "macro_average": shares,
        "weighted_average": shares,
        "calibration": [],
        "classes": [{"class": name, "examples": 1, **shares}],
        "mistakes": [mistake],
    }
    one = " ".join(name.split())
    seen = shown(COMMONMARK(to_markdown(result)))
    assert seen[0] == f"{one}: test"
    assert seen[1] == " ".join(result["command"].split())
    assert f"{one}, step-00000001" in seen and f"{one}, test (fingerprint f)" in seen
    assert seen[-5:] == [one, "fine", "90.00%", one, one]
