"""A run of several labels that begins with the weights of another: heads go by name."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from app.checkpoints.init_from import class_variables, load_weights
from app.commands.saved_run import SavedRun
from app.data.heads import Head
from app.data.plan import DataPlan
from app.data.text.tokenizer import tokenizer_from
from models.table import MODELS
from tests.single.checkpoints.saved_runs import PLAN, TOKENIZER, fresh, run_of, values
from tests.single.models.small import ENCODER

INTENT, DOMAIN = Head("intent", ("ask", "book", "send")), Head("domain", ("bank", "travel"))


def with_heads(plan: DataPlan, *heads: Head) -> DataPlan:
    return dataclasses.replace(plan, class_names=heads[0].class_names, heads=heads)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> SavedRun:
    """A run on texts of two labels."""
    lengths = {"train": np.ones(1, np.uint8)}
    plan = dataclasses.replace(PLAN, kind="text", tokenizer=TOKENIZER, lengths=lengths)
    directory = tmp_path_factory.mktemp("two") / "run"
    return run_of(directory, with_heads(plan, INTENT, DOMAIN), model="bag", width=8)


def loaded(run: SavedRun, *heads: Head) -> tuple[dict[str, np.ndarray], list[str], set[str]]:
    """(the variables of a model of these labels that began with the run, what was left of it, the
    paths of what changed)."""
    plan = with_heads(run.plan, *heads)
    model = fresh(run, plan)
    before = values(model)
    report = load_weights(run.directory, model, plan)
    after = values(model)
    changed = {path for path in after if not np.array_equal(before[path], after[path])}
    return after, report.left, changed


def test_a_label_of_the_same_name_and_classes_is_taken_over_in_their_order(two) -> None:
    there = values(two.classifier)
    swapped = Head("domain", ("travel", "bank"))
    here, left, _ = loaded(two, swapped, INTENT, Head("mood", ("bad", "good")))
    for part in ("kernel", "bias"):
        name = f"domain_logits/{part}"
        assert np.array_equal(here[name], there[name][..., ::-1])
        assert np.array_equal(here[f"intent_logits/{part}"], there[f"intent_logits/{part}"])
    embedding = "token_embedding/embeddings"
    assert np.array_equal(here[embedding], there[embedding])
    assert left == ["mood_logits/kernel (not there)", "mood_logits/bias (not there)"]


def test_a_label_of_other_classes_begins_anew(two) -> None:
    _, left, changed = loaded(two, Head("intent", ("ask", "book", "walk")), DOMAIN)
    reason = "other classes: only one of the runs has 'send'"
    assert left == [f"intent_logits/kernel ({reason})", f"intent_logits/bias ({reason})"]
    assert not any(path.startswith("intent_logits") for path in changed)
    assert "domain_logits/kernel" in changed


def test_labels_whose_layers_are_called_alike_are_two(tmp_path, two) -> None:
    there = with_heads(two.plan, INTENT, Head("a b", ("x", "y")))
    run = run_of(tmp_path / "run", there, model="bag", width=8)
    _, left, _ = loaded(run, INTENT, Head("a_b", ("x", "y")))
    assert left == [f"a_b_logits/{part} (no label 'a_b' there)" for part in ("kernel", "bias")]


@pytest.mark.parametrize("head", [INTENT, DOMAIN])
def test_the_only_label_of_a_run_has_no_name_to_go_by(two, head: Head) -> None:
    _, left, changed = loaded(two, head)
    assert left == ["logits/kernel (not there)", "logits/bias (not there)"]
    assert changed == {"token_embedding/embeddings"}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_last_layer_for_each_label(two, name: str) -> None:
    of_texts, needs_pretrained = MODELS[name].kind == "text", MODELS[name].needs_pretrained
    keys: dict[str, Any] = {} if of_texts else {"image_shape": (32, 32, 3), "tokenizer": None}
    width = None if name == "efficientnetv2" or needs_pretrained else 8
    if needs_pretrained:
        rows = tokenizer_from(two.plan.tokenizer).vocabulary_size
        keys["pretrained"] = {**ENCODER, "tokens": rows, "positions": 512}
    heads = (INTENT, DOMAIN, Head("an other", ("p", "q", "r")))
    plan = dataclasses.replace(with_heads(two.plan, *heads), **keys)
    found = class_variables(fresh(two, plan, model=name, width=width), heads)
    assert found == {
        f"{layer}_logits/{part}": head
        for layer, head in zip(("intent", "domain", "an_other"), heads, strict=True)
        for part in ("kernel", "bias")
    }
