"""A run that begins with the weights of another: what is loaded, by which name, and what is not."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.checkpoints.init_from import InitReport, class_variables, load_weights, token_variables
from app.classifier import Classifier
from app.commands.saved_run import SavedRun
from app.data.plan import DataPlan
from app.data.text.tokenizer import tokenizer_from
from app.rundir.files import STATE
from app.state import Kind, state_variables
from models.table import MODELS
from tests.single.checkpoints.saved_runs import PLAN, TOKENIZER, fresh, run_of, values
from tests.single.models.small import ENCODER

TEXTS = ["sun and rain", "moon", "warm rain", "unheard of"]
WORDPIECE: dict[str, Any] = {
    "kind": "wordpiece",
    "max_tokens": 16,
    "lowercase": True,
    "strip_accents": None,
    "split_ideographs": True,
    "vocabulary": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain", "sun", "moon", "##s"],
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> SavedRun:
    """A run on texts of three classes."""
    lengths = {"train": np.ones(1, np.uint8)}
    plan = dataclasses.replace(PLAN, kind="text", tokenizer=TOKENIZER, lengths=lengths)
    return run_of(tmp_path_factory.mktemp("texts") / "run", plan, model="bag", width=8)


def with_vocabulary(run: SavedRun, change: Callable[[list[str]], list[str]], **keys: Any):
    """The plan of a run on texts, with another tokenizer."""
    assert run.plan.tokenizer
    vocabulary = change(list(run.plan.tokenizer["vocabulary"]))
    changed = {**run.plan.tokenizer, **keys, "vocabulary": vocabulary}
    return dataclasses.replace(run.plan, tokenizer=changed)


def logits_of_texts(model: Classifier, plan: DataPlan) -> np.ndarray:
    assert plan.tokenizer
    tokenizer = tokenizer_from(plan.tokenizer)
    ids = tokenizer.ids_of(tf.constant(TEXTS))
    return model(tf.cast(ids.to_tensor(), tf.int32)).numpy()


def test_all_but_random_generators_is_loaded_from_a_run_like_this_one(images) -> None:
    model = fresh(images, images.plan)
    before = values(model)
    report = load_weights(images.directory, model, images.plan)
    there, here = values(images.classifier), values(model)
    for entry in state_variables(model):
        if entry.kind is Kind.DERIVED:
            assert np.array_equal(here[entry.path], before[entry.path])
        else:
            assert np.array_equal(here[entry.path], there[entry.path]), entry.path
    assert any("moving_variance" in path for path in report.loaded)
    number = len(report.loaded)
    assert report == InitReport(images.checkpoint, report.loaded, [], [])
    assert str(report) == f"{number} of {number} variables from {images.checkpoint}"


@pytest.mark.parametrize("inside", ["", STATE.replace("json", "safetensors")])
def test_a_checkpoint_and_its_file_know_their_run(texts, inside) -> None:
    plan = with_vocabulary(texts, lambda vocabulary: vocabulary[::-1])
    model = fresh(texts, plan)
    load_weights(texts.checkpoint / inside, model, plan)
    expected = logits_of_texts(texts.classifier, texts.plan)
    assert np.allclose(logits_of_texts(model, plan), expected, atol=1e-6)


def test_a_head_of_another_size_stays_as_it_was_and_is_listed(images, caplog) -> None:
    plan = dataclasses.replace(images.plan, class_names=("a", "b"))
    model = fresh(images, plan)
    before = values(model)
    with caplog.at_level(logging.INFO, "lockstep"):
        report = load_weights(images.directory, model, plan)
    here, there = values(model), values(images.classifier)
    assert np.array_equal(here["logits/kernel"], before["logits/kernel"])
    assert np.array_equal(here["stem_conv1/kernel"], there["stem_conv1/kernel"])
    lines = ["logits/kernel ((16, 3) there, (16, 2) here)", "logits/bias ((3,) there, (2,) here)"]
    assert report.left == lines
    total = len(report.loaded) + 2
    expected = f"{total - 2} of {total} variables from {images.checkpoint}; left as initialised: "
    assert str(report) == expected + ", ".join(lines)
    told = [record.getMessage() for record in caplog.records]
    assert "loaded: stem_conv1/kernel" in told
    assert f"left as initialised: {lines[0]}" in told


def test_a_head_goes_by_the_names_of_the_classes(images) -> None:
    names = images.plan.class_names
    plan = dataclasses.replace(images.plan, class_names=(names[2], names[0], names[1]))
    model = fresh(images, plan)
    report = load_weights(images.directory, model, plan)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    expected = images.classifier(pixels).numpy()[:, [2, 0, 1]]
    assert np.allclose(model(pixels).numpy(), expected, atol=1e-6)
    assert report.left == []


def test_a_head_for_other_classes_of_the_same_number_is_not_loaded(images) -> None:
    names = (*images.plan.class_names[:2], "zebra")
    plan = dataclasses.replace(images.plan, class_names=names)
    model = fresh(images, plan)
    before = values(model)
    report = load_weights(images.directory, model, plan)
    for path in ("logits/kernel", "logits/bias"):
        assert np.array_equal(values(model)[path], before[path])
    other = min({*names} ^ {*images.plan.class_names})
    reason = f"other classes: only one of the runs has '{other}'"
    assert report.left == [f"logits/kernel ({reason})", f"logits/bias ({reason})"]


def test_rows_of_an_embedding_go_by_token(texts) -> None:
    plan = with_vocabulary(texts, lambda vocabulary: ["new", *vocabulary[:0:-1], "newer"])
    model = fresh(texts, plan)
    before = values(model)["token_embedding/embeddings"]
    report = load_weights(texts.directory, model, plan)
    after = values(model)["token_embedding/embeddings"]
    assert plan.tokenizer and texts.plan.tokenizer
    here, there = plan.tokenizer["vocabulary"], texts.plan.tokenizer["vocabulary"]
    saved = values(texts.classifier)["token_embedding/embeddings"]
    assert np.array_equal(after[:2], saved[:2])  # padding and unknown
    for row, token in enumerate(here, 2):
        known = token in there
        expected = saved[there.index(token) + 2] if known else before[row]
        assert np.array_equal(after[row], expected), token
    assert report.left == []
    assert report.notes == [
        f"2 of {len(here) + 2} rows of token_embedding/embeddings as initialised, since their "
        "tokens are not there"
    ]


def test_rows_of_pieces_go_by_token_too(texts, tmp_path: Path) -> None:
    """The vocabulary of a WordPiece has its special tokens in it."""
    plan = dataclasses.replace(texts.plan, tokenizer=WORDPIECE)
    run = run_of(tmp_path / "run", plan, model="bag", width=8)
    changed = [*WORDPIECE["vocabulary"][:4], "new", *WORDPIECE["vocabulary"][:4:-1]]
    plan = dataclasses.replace(plan, tokenizer=WORDPIECE | {"vocabulary": changed})
    model = fresh(run, plan)
    before = values(model)["token_embedding/embeddings"]
    assert load_weights(run.directory, model, plan).left == []
    saved = values(run.classifier)["token_embedding/embeddings"]
    expected = [*saved[:4], before[4], saved[7], saved[6], saved[5]]
    assert np.array_equal(values(model)["token_embedding/embeddings"], expected)
    report = load_weights(texts.directory, model, plan)
    assert report.left == ["token_embedding/embeddings (kind words there, wordpiece here)"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"ngrams": 2}, "ngrams 1 there, 2 here"),
        ({"kind": "characters"}, "kind words there, characters here"),
        ({"vocabulary": ["nothing", "shared"]}, "no token of this vocabulary is there"),
    ],
)
def test_rows_of_other_tokens_are_not_loaded(texts, keys, reason) -> None:
    vocabulary = keys.pop("vocabulary", None)
    plan = with_vocabulary(texts, lambda own: vocabulary or own, **keys)
    model = fresh(texts, plan)
    before = values(model)["token_embedding/embeddings"]
    report = load_weights(texts.directory, model, plan)
    assert np.array_equal(values(model)["token_embedding/embeddings"], before)
    assert report.left == [f"token_embedding/embeddings ({reason})"]
    assert "logits/kernel" in report.loaded


def test_another_cut_of_long_texts_changes_no_token(texts) -> None:
    plan = with_vocabulary(texts, lambda vocabulary: vocabulary, max_tokens=2)
    report = load_weights(texts.directory, fresh(texts, plan), plan)
    assert (report.left, report.notes) == ([], [])


def test_an_embedding_of_another_width_is_not_loaded(texts) -> None:
    model = fresh(texts, texts.plan, width=4)
    report = load_weights(texts.directory, model, texts.plan)
    rows = values(model)["token_embedding/embeddings"].shape[0]
    assert report.left[0] == f"token_embedding/embeddings (({rows}, 8) there, ({rows}, 4) here)"
    assert report.loaded == ["logits/bias"]


def test_a_head_on_another_network_is_not_loaded(texts) -> None:
    model = fresh(texts, texts.plan, model="transformer")
    report = load_weights(texts.directory, model, texts.plan)
    assert report.loaded == ["token_embedding/embeddings"]
    reason = "reads the features of a bag there, of a transformer here"
    assert report.left[-2:] == [f"logits/kernel ({reason})", f"logits/bias ({reason})"]


def test_what_no_variable_shows_is_said(images) -> None:
    plan = dataclasses.replace(images.plan, image_shape=(16, 12, 3), fingerprint="other")
    report = load_weights(images.directory, fresh(images, plan), plan)
    assert report.notes[0] == "images are 8x8x3 there, 12x16x3 here"
    assert "was split in another way there, or has changed" in report.notes[1]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_an_embedding_and_a_head_that_are_found(texts, images, name) -> None:
    of_texts = MODELS[name].kind == "text"
    run = texts if of_texts else images
    image_shape = None if of_texts else (32, 32, 3)
    pretrained, width = None, None if name == "efficientnetv2" else 8
    if MODELS[name].needs_pretrained:
        rows = tokenizer_from(run.plan.tokenizer).vocabulary_size
        pretrained, width = {**ENCODER, "tokens": rows, "positions": 512}, None
    plan = dataclasses.replace(run.plan, image_shape=image_shape, pretrained=pretrained)
    model = fresh(run, plan, model=name, width=width)
    assert model.network.name == name  # as in the config of a run
    (head,) = plan.heads
    assert class_variables(model, plan.heads) == {"logits/kernel": head, "logits/bias": head}
    embedding = "embeddings/token" if pretrained else "token_embedding"
    assert token_variables(model, plan) == ({f"{embedding}/embeddings"} if of_texts else set())
