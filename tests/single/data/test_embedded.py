"""The embedded datasets, and the splits and fingerprints that every dataset has."""

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.data.examples import Dataset, Examples, stratified_split
from app.data.sources.embedded import MODULES_BY_AREA, digits, pydocs


@pytest.fixture(scope="module")
def docs() -> Dataset:
    return pydocs()


def texts(*inputs: str, labels: tuple[int, ...] | None = None) -> Examples:
    array = np.array(inputs, dtype=object)
    return Examples(array, np.array(labels or (0,) * len(inputs), dtype=np.int64))


def text_dataset(train: Examples, **changes: Any) -> Dataset:
    dataset = Dataset("some", "text", ("a", "b"), train, None, texts("a test"))
    return replace(dataset, **changes)


def image_dataset(images: np.ndarray) -> Dataset:
    examples = Examples(images, np.zeros(len(images), dtype=np.int64))
    return Dataset("some", "image", ("a",), examples, None, examples)


def write_library(folder: Path, **docstrings: str) -> Path:
    """One module for each area, with a docstring of its own, and those given."""
    for area, modules in MODULES_BY_AREA.items():
        module = modules.split()[0]
        (folder / f"{module}.py").write_text(f'"""All there is about {area}."""\n')
    for module, docstring in docstrings.items():
        (folder / f"{module}.py").write_text(f'"""{docstring}"""\n')
    return folder


def all_texts(dataset: Dataset) -> list[str]:
    return [*dataset.train.inputs, *dataset.test.inputs]


def test_digits_are_1797_grey_images_in_ten_classes() -> None:
    dataset = digits()
    assert len(dataset.train) + len(dataset.test) == 1797
    assert dataset.train.inputs.shape[1:] == (8, 8, 1)
    assert dataset.train.inputs.min() == 0 and dataset.train.inputs.max() == 255
    assert len(np.unique(dataset.train.inputs)) == 17  # 0 to 16
    assert len(dataset.class_names) == 10
    assert dataset.validation is None


def test_digits_are_the_same_every_time() -> None:
    assert digits().fingerprint == digits().fingerprint


def test_pydocs_has_thousands_of_texts_and_hundreds_in_every_area(docs: Dataset) -> None:
    assert 4000 < len(all_texts(docs)) < 8000
    assert len(docs.class_names) == 7
    assert np.bincount(docs.train.labels, minlength=7).min() > 200
    assert docs.validation is None


def test_pydocs_texts_have_four_words_and_single_spaces(docs: Dataset) -> None:
    for text in all_texts(docs):
        assert len(text.split()) >= 4
        assert text == " ".join(text.split())


def test_no_pydocs_text_occurs_twice_within_a_split_or_across_splits(docs: Dataset) -> None:
    assert len(set(all_texts(docs))) == len(all_texts(docs))


def test_a_fifth_of_every_pydocs_area_is_test(docs: Dataset) -> None:
    train, test = (np.bincount(split.labels, minlength=7) for split in (docs.train, docs.test))
    np.testing.assert_allclose(test / (train + test), 0.2, atol=0.005)


def test_pydocs_is_the_same_every_time_and_carries_the_python_version(docs: Dataset) -> None:
    assert pydocs().fingerprint == docs.fingerprint
    assert platform.python_version() in docs.version


def test_pydocs_labels_a_docstring_by_its_module(docs: Dataset) -> None:
    import json
    import socketserver

    label_of = dict(zip(docs.train.inputs, docs.train.labels, strict=True))
    label_of |= dict(zip(docs.test.inputs, docs.test.labels, strict=True))
    for module, area in ((json, "text and data formats"), (socketserver, "networking and web")):
        text = " ".join((module.__doc__ or "").split())
        assert docs.class_names[label_of[text]] == area


def test_every_module_has_one_area() -> None:
    modules = " ".join(MODULES_BY_AREA.values()).split()
    assert len(set(modules)) == len(modules)


def test_pydocs_finds_docstrings_of_classes_and_functions_wherever_they_are(
    tmp_path: Path,
) -> None:
    library = write_library(tmp_path)
    (library / "json").mkdir()
    (library / "json" / "inner.py").write_text(
        "try:\n    class A:\n        '''the  class\n        of a block'''\n"
        "        async def f(self):\n            '''the method of the class'''\n"
        "            def g():\n                'the function inside a method'\n"
        "except Exception:\n    def h():\n        'too short'\n"
    )
    found = all_texts(pydocs(library))
    assert len(found) == 7 + 3
    assert {
        "the class of a block",
        "the method of the class",
        "the function inside a method",
    } < set(found)


def test_pydocs_says_what_a_docstring_documents(tmp_path: Path) -> None:
    library = write_library(tmp_path)
    (library / "json.py").write_text(
        "'''text of the whole module'''\n"
        "def f():\n    'text of a function f'\n"
        "    def inner():\n        'text of an inner function'\n"
        "    class Local:\n        'text of a local class'\n"
        "class A:\n    'text of the class A'\n"
        "    if True:\n        async def g(self):\n            'text of the method g'\n"
        "            def h():\n                'text inside the method g'\n"
        "    class B:\n        'text of the class B'\n"
        "        @property\n        def p(self):\n            'text of the property p'\n"
        "def last():\n    'text of the last function'\n"
    )
    dataset = pydocs(library, ("kind", "area"))
    assert [head.name for head in dataset.heads] == ["kind", "area"]
    assert dataset.class_names == ("module", "class", "function", "method")
    found = {}
    for split in dataset.splits.values():
        found |= dict(zip(split.inputs, split.labels.tolist(), strict=True))
    json_area = list(MODULES_BY_AREA).index("text and data formats")
    kinds = [dataset.class_names[kind] for kind, area in found.values() if area == json_area]
    assert len(kinds) == 10 + 1  # that of the area's own module
    expected = {
        "text of the whole module": "module",
        "text of a function f": "function",
        "text of an inner function": "function",
        "text of a local class": "class",
        "text of the class A": "class",
        "text of the method g": "method",
        "text inside the method g": "function",
        "text of the class B": "class",
        "text of the property p": "method",
        "text of the last function": "function",
    }
    assert {text: dataset.class_names[found[text][0]] for text in expected} == expected


def test_the_labels_of_pydocs_are_of_the_same_texts_and_splits(docs: Dataset) -> None:
    both = pydocs(labels=("area", "kind"))
    for one, other in ((docs.train, both.train), (docs.test, both.test)):
        assert one.inputs.tolist() == other.inputs.tolist()
        assert one.labels.tolist() == other.labels[:, 0].tolist()
    assert both.fingerprint != docs.fingerprint
    assert pydocs(labels=("area",)).fingerprint == docs.fingerprint
    kinds = pydocs(labels=("kind",))
    assert kinds.train.labels.tolist() == both.train.labels[:, 1].tolist()
    assert np.bincount(kinds.train.labels).min() > 150 and len(kinds.class_names) == 4


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(("area", "knid"), "no label 'knid': did you mean 'kind'"), (("kind", "kind"), "twice")],
)
def test_pydocs_says_which_labels_it_has(labels: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        pydocs(labels=labels)


def test_pydocs_keeps_a_text_of_two_areas_once_with_the_first_path(tmp_path: Path) -> None:
    library = write_library(tmp_path, zipfile="some text of both", json="some text of both")
    dataset = pydocs(library)
    found = [*dataset.train.inputs, *dataset.test.inputs]
    assert found.count("some text of both") == 1
    labels = [*dataset.train.labels, *dataset.test.labels]
    area = dataset.class_names[labels[found.index("some text of both")]]
    assert area == "text and data formats"  # json.py comes before zipfile.py


def test_pydocs_passes_over_tests_and_files_that_do_not_parse(tmp_path: Path) -> None:
    library = write_library(tmp_path, turtle="a module of no area")
    (library / "json.py").write_text("'''a docstring before''' def :")
    (library / "csv.py").write_bytes(b"'''a docstring with \xff in it'''")
    (library / "unittest" / "test").mkdir(parents=True)
    (library / "unittest" / "test" / "cases.py").write_text("'''a docstring of a test'''")
    assert len(all_texts(pydocs(library))) == 7


def test_pydocs_says_what_is_missing_from_a_stripped_python(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source files.*standard library.*missing"):
        pydocs(tmp_path)


def test_a_split_is_disjoint_complete_and_deterministic() -> None:
    labels = np.arange(103) % 4
    kept, held_out = stratified_split(labels, 0.25, seed=7)
    assert sorted([*kept, *held_out]) == list(range(103))
    assert len(held_out) == 26
    assert np.bincount(labels[held_out]).tolist() in ([7, 7, 6, 6], [7, 6, 7, 6], [6, 7, 7, 6])
    again = stratified_split(labels, 0.25, seed=7)
    np.testing.assert_array_equal(held_out, again[1])
    assert held_out.tolist() != stratified_split(labels, 0.25, seed=8)[1].tolist()


def test_a_seed_gives_the_split_it_has_always_given() -> None:
    _, held_out = stratified_split(np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), 0.4, seed=1)
    assert held_out.tolist() == [0, 2, 5, 7]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_tiny_class_keeps_an_example(share: float) -> None:
    labels = np.array([5, 5, 2, 9, 9, 9, 0])
    kept, held_out = stratified_split(labels, share, seed=0)
    assert set(labels[kept]) == {0, 2, 5, 9}
    assert len(kept) + len(held_out) == 7


def test_a_split_of_nothing_is_empty() -> None:
    kept, held_out = stratified_split(np.zeros(0, dtype=np.int64), 0.5, seed=0)
    assert len(kept) == len(held_out) == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_outside_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(np.zeros(4, dtype=np.int64), share, seed=0)


def test_the_fingerprint_changes_with_a_text_a_label_a_class_name_a_version_or_a_split() -> None:
    train = texts("one", "two", labels=(0, 1))
    variants = [
        text_dataset(train),
        text_dataset(texts("one", "twO", labels=(0, 1))),
        text_dataset(texts("one", "two", labels=(0, 0))),
        text_dataset(texts("two", "one", labels=(1, 0))),
        text_dataset(train, class_names=("a", "c")),
        text_dataset(train, version="2"),
        text_dataset(train, validation=texts("a test")),
        text_dataset(train, validation=texts("a test"), test=texts()),
    ]
    assert len({dataset.fingerprint for dataset in variants}) == len(variants)


def test_the_fingerprint_is_of_the_content_not_the_name() -> None:
    train = texts("one", "two")
    assert text_dataset(train).fingerprint == text_dataset(train, name="other").fingerprint


def test_the_fingerprint_tells_where_one_text_ends_and_the_next_begins() -> None:
    pairs = [texts("ab", "c"), texts("a", "bc"), texts("abc", ""), texts("a\0b", "c")]
    assert len({text_dataset(train).fingerprint for train in pairs}) == len(pairs)


def test_the_fingerprint_changes_with_a_pixel_and_with_the_shape() -> None:
    images = np.zeros((2, 4, 6, 1), dtype=np.uint8)
    other = images.copy()
    other[1, 3, 5, 0] = 1
    prints = {image_dataset(i).fingerprint for i in (images, other, images.reshape(2, 6, 4, 1))}
    assert len(prints) == 3


def test_the_fingerprint_does_not_depend_on_how_images_lie_in_memory() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(2, 4, 6, 1)
    assert image_dataset(images).fingerprint == image_dataset(np.asfortranarray(images)).fingerprint


def test_take_picks_rows_in_the_order_given() -> None:
    taken = texts("a", "b", "c", labels=(0, 1, 0)).take(np.array([2, 1]))
    assert taken.inputs.tolist() == ["c", "b"] and taken.labels.tolist() == [0, 1]
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int64), "uint8 images"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64), "uint8 images"),
        (np.array(["a", b"b"], object), np.zeros(2, np.int64), "row 1 is bytes"),
        (np.array(["a", "b"], object), np.zeros(2, np.int32), "labels must be int64"),
        (np.array(["a", "b"], object), np.zeros(3, np.int64), "2 inputs and 3 labels"),
    ],
)
def test_examples_of_another_shape_or_type_are_refused(
    inputs: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Examples(inputs, labels)


def test_a_label_without_a_class_name_is_refused() -> None:
    with pytest.raises(ValueError, match="some/train: row 1 has label 2"):
        text_dataset(texts("one", "two", labels=(0, 2)))


def test_a_split_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 'image'"):
        text_dataset(texts("one"), kind="image")
