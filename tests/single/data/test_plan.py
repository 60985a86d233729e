"""What is decided about a dataset is kept with the run, and opens it again without a decision."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app.decide
import app.load
from app.commands.evaluate_run import evaluate_run
from app.config import Config
from app.data import survey
from app.data.bad import BadExamples
from app.data.catalogue import load_dataset
from app.data.examples import Dataset, Examples
from app.data.export import export_tfrecord
from app.data.hold import hold
from app.data.plan import grouped, read_plan, smallest, ungrouped
from app.distributed.world import World
from app.errors import UserError
from app.load import load_data
from app.recipe import load
from app.rundir.contents import saved_plan, write_file
from app.train import train

IMAGES = 44
BAD = "truncated or damaged JPEG"
WORDS = ["zebra", "quokka", "ocelot", "narwhal"]


def write_images(folder: Path) -> None:
    """A small folder of which two images are bad: one is empty, one cut off behind its header."""
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 16, 16, 3)).astype(np.uint8)
    for number, image in enumerate(noise):
        path = folder / ("train" if number < 40 else "test") / "ab"[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        content = file.getvalue()
        share = {2: 0.0, 6: 0.9}.get(number, 1.0)
        (path / f"{number:02}.jpg").write_bytes(content[: int(len(content) * share)])


def write_texts(folder: Path) -> None:
    """Records of texts of 1 to 300 words."""
    texts = np.array([f"{WORDS[i % 4]} " * (1 + i % 300) for i in range(900)], dtype=object)
    labels = np.arange(900) % 2
    train, test = Examples(texts[:600], labels[:600]), Examples(texts[600:], labels[600:])
    export_tfrecord(Dataset("t", "text", ("a", "b"), train, None, test), folder, 0, None)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sources")
    write_images(place / "images")
    write_texts(place / "texts")
    return place


def config_of(sources: Path, run: Path, kind: str, hold: str, **keys) -> Config:
    common = {"dataset": str(sources / kind), "hold": hold, "validation": 0, "on_bad": "skip"}
    model = {"model": "cnn" if kind == "images" else "bag", "width": 2, "max_tokens": 280}
    size = {"epochs": 1, "global_batch_size": 20, "run_dir": str(run)}
    return load(None, {**common, **model, **size, **keys})


@pytest.fixture
def forbidden(monkeypatch):
    """Call it to have every decision about data fail from then on."""

    def never(*arguments, **keys):
        raise AssertionError("this was decided already")

    def forbid() -> None:
        for name in ("look_at_headers", "undecodable", "text_lengths", "build_tokenizer", "choose"):
            monkeypatch.setattr(app.decide, name, never)
        monkeypatch.setattr(app.load, "decide", never)

    return forbid


@pytest.mark.parametrize("hold", ["memory", "stream"])
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_resumed_run_and_its_evaluation_decide_nothing_again(
    sources: Path, tmp_path: Path, forbidden, kind: str, hold: str
) -> None:
    config = config_of(sources, tmp_path / "run", kind, hold)
    train(config, world=World())
    forbidden()
    training = config.training.model_copy(update={"epochs": 2})
    longer = config.model_copy(update={"training": training})
    metrics = train(longer, resume=True, world=World())
    assert metrics["epoch"] == 2 and metrics["bad_examples"] == (2 if kind == "images" else 0)
    result = evaluate_run(tmp_path / "run", {}, "test", None, World())
    assert result["accuracy"] == metrics["test_accuracy"]
    assert result["examples"] == (4 if kind == "images" else 300)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_hold_opens_alone_and_the_same_what_was_decided(
    sources: Path, tmp_path: Path, forbidden, kind: str
) -> None:
    """Without a world: it knows none. Memory and stream give the same."""
    config = config_of(sources, tmp_path, kind, "memory")
    expected = load_data(config, World())
    forbidden()
    expected.plan.save(tmp_path / "plan.json", write_file)
    for stream in (False, True):
        plan = dataclasses.replace(read_plan(tmp_path / "plan.json"), stream=stream)
        bad = BadExamples("skip")
        dataset = plan.without_bad(load_dataset(config.data, 0, bad), bad)
        assert sorted(bad.found, key=str) == sorted(expected.bad, key=str)
        for name, split in hold(plan, config.data, dataset.splits).items():
            rows = np.arange(len(split))
            longest = split.longest(rows)
            assert longest == expected.splits[name].longest(rows)
            np.testing.assert_array_equal(
                split.inputs(rows, longest), expected.splits[name].inputs(rows, longest)
            )
            np.testing.assert_array_equal(split.labels, expected.splits[name].labels)


def test_a_plan_holds_rows_and_reasons_and_no_content(sources: Path, tmp_path: Path) -> None:
    images = load_data(config_of(sources, tmp_path, "images", "stream"), World()).plan
    # Of class a, the second and the fourth file.
    assert images.left_out == {"train": {"zero bytes": [1], BAD: [3]}}
    assert images.examples == {"train": 38, "test": 4}
    kept = json.dumps(images.to_json(), default=list)
    assert "16" in kept and ".jpg" not in kept and len(kept) < 1000
    texts = load_data(config_of(sources, tmp_path, "texts", "stream"), World()).plan
    saved = texts.to_json()
    assert sorted(saved.pop("tokenizer")["vocabulary"]) == sorted(WORDS)
    assert not any(word in json.dumps(saved, default=list) for word in WORDS)


WORDPIECE = {
    "kind": "wordpiece",
    "vocabulary": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS],
    "max_tokens": 202,
    **{"lowercase": True, "strip_accents": None, "split_ideographs": True},
}


@pytest.mark.parametrize("hold_as", ["memory", "stream"])
def test_lengths_count_what_a_wordpiece_adds_to_each_text(
    sources: Path, tmp_path: Path, hold_as: str
) -> None:
    config = config_of(sources, tmp_path, "texts", hold_as)
    by_words = load_data(config, World())
    trained = dataclasses.replace(by_words.plan, tokenizer=WORDPIECE)
    plan, dataset, _ = app.decide.decide(
        config.data, by_words.dataset, BadExamples("skip"), World(), trained
    )
    assert plan.tokenizer == WORDPIECE
    assert plan.notes["texts"].startswith("8 WordPieces, ")
    assert plan.notes["cut"] == "300 texts longer than 202 tokens (200 of 600 in train)"
    assert "no token" not in plan.notes
    for name, split in hold(plan, config.data, dataset.splits).items():
        words = by_words.plan.lengths[name].astype(int)
        np.testing.assert_array_equal(plan.lengths[name], np.minimum(words, 200) + 2)
        rows = np.arange(0, len(split), 7)
        ids = np.asarray(split.inputs(rows, split.longest(rows)))
        np.testing.assert_array_equal((ids != 0).sum(axis=1), plan.lengths[name][rows])


def test_texts_without_a_piece_are_told(sources: Path, tmp_path: Path) -> None:
    config = config_of(sources, tmp_path, "texts", "memory")
    trained = dataclasses.replace(load_data(config, World()).plan, tokenizer=WORDPIECE)
    texts = np.array(["zebra", "", " \u200b", "unknown"], dtype=object)
    part = Examples(texts, np.array([0, 1, 0, 1]))
    dataset = Dataset("t", "text", ("a", "b"), part, None, part)
    plan, _, _ = app.decide.decide(config.data, dataset, BadExamples("skip"), World(), trained)
    told = "4 texts, which the model cannot tell apart (2 of 4 in train)"
    assert plan.notes["no token"] == told
    assert plan.lengths["train"].tolist() == [3, 2, 2, 3]


def test_lengths_are_kept_in_the_smallest_type_and_mapped_when_read(
    sources: Path, tmp_path: Path
) -> None:
    for most, dtype in ((280, np.uint16), (9, np.uint8)):
        config = config_of(sources, tmp_path, "texts", "stream", max_tokens=most)
        load_data(config, World()).plan.save(tmp_path / "plan.json", write_file)
        lengths = read_plan(tmp_path / "plan.json").lengths
        assert isinstance(lengths["train"], np.memmap)
        assert {name: array.dtype for name, array in lengths.items()} == {
            "train": dtype,
            "test": dtype,
        }
        found = np.bincount(lengths["train"], minlength=most + 1) + np.bincount(
            lengths["test"], minlength=most + 1
        )
        # Records are shuffled: each length comes three times, and what is longer is cut.
        assert found[1:most].tolist() == [3] * (most - 1) and found[most] == 3 * (301 - most)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65536, "u4"), (2**32, "u8")]
)
def test_smallest_is_the_smallest_that_holds_the_largest(largest: int, dtype: str) -> None:
    found = smallest(np.array([0, largest], np.int64))
    assert found.dtype == dtype and found.tolist() == [0, largest]
    assert smallest(np.zeros(0, np.int64)).dtype == np.uint8


def test_grouped_rows_come_back_in_order() -> None:
    found = [(7, "b"), (1, "a"), (3, "b")]
    assert grouped(found) == {"a": [1], "b": [3, 7]}
    assert ungrouped(grouped(found)) == sorted(found)


def test_each_image_is_decoded_once_to_decide_and_no_more_than_once_to_hold(
    sources: Path, tmp_path: Path, monkeypatch
) -> None:
    calls: list[int] = []
    usual = survey.decode_images

    def counted(encoded, spec):
        calls.append(len(encoded))
        return usual(encoded, spec)

    monkeypatch.setattr(survey, "decode_images", counted)
    config = config_of(sources, tmp_path, "images", "stream")
    plan = load_data(config, World()).plan
    assert sum(calls) == IMAGES - 1  # a header was enough for one
    calls.clear()
    load_data(config, World(), plan)
    assert not calls
    memory = config_of(sources, tmp_path, "images", "memory")
    plan = load_data(memory, World()).plan
    assert sum(calls) == IMAGES - 1
    calls.clear()
    load_data(memory, World(), plan)
    assert sum(calls) == IMAGES - 2


def test_a_bad_image_that_is_known_still_ends_a_run_that_allows_none(
    sources: Path, tmp_path: Path
) -> None:
    config = config_of(sources, tmp_path, "images", "stream")
    plan = load_data(config, World()).plan
    strict = config.model_copy(update={"data": config.data.model_copy(update={"on_bad": "error"})})
    with pytest.raises(UserError, match="02.jpg: zero bytes"):
        load_data(strict, World(), plan)


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_data_that_changed_since_are_refused_on_resume_and_by_evaluate(
    tmp_path: Path, hold: str
) -> None:
    write_images(tmp_path / "images")
    config = config_of(tmp_path, tmp_path / "run", "images", hold)
    train(config, world=World())
    changed = next((tmp_path / "images" / "test" / "a").iterdir())
    content = changed.read_bytes()
    changed.write_bytes(content + b"more")
    with pytest.raises(UserError, match="the data has changed since .* was started"):
        train(config, resume=True, world=World())
    with pytest.raises(UserError, match="the data has changed since .* was trained"):
        evaluate_run(tmp_path / "run", {}, "test", None, World())
    changed.write_bytes(content[:-200] + bytes(200))  # of the same size, and damaged
    if hold == "memory":
        with pytest.raises(UserError, match="but it could be decoded when the run was begun"):
            evaluate_run(tmp_path / "run", {}, "test", None, World())


def test_the_plan_of_a_run_is_the_one_that_it_was_begun_with(sources: Path, tmp_path: Path) -> None:
    config = config_of(sources, tmp_path / "run", "images", "stream")
    train(config, world=World())
    assert saved_plan(tmp_path / "run").to_json() == load_data(config, World()).plan.to_json()
    listed = (tmp_path / "run" / "bad_examples.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in listed] == ["zero bytes", BAD]
