"""The report on a source: its classes, sizes, lengths, samples and problems."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.data.bad import Bad
from app.data.examples import Dataset, Examples
from app.data.heads import Head
from app.data.report import MOST_CLASSES, MOST_PROBLEMS, report_on
from app.data.sources.image_files import ImageFiles


def examples(texts: list[str], labels: list[int]) -> Examples:
    return Examples(np.array(texts, dtype=object), np.array(labels, np.int64))


def texts(number: int, classes: int, word: str = "text") -> Examples:
    """Different texts, whose labels go round."""
    return examples([f"{word} {i}" for i in range(number)], [i % classes for i in range(number)])


def report(
    dataset: Dataset,
    bad: list[Bad] | None = None,
    lengths: dict[str, list[int]] | None = None,
    max_tokens: int = 256,
) -> str:
    """`report_on`, with every text of two tokens if the lengths are not given."""
    found = {name: np.array((lengths or {}).get(name, [2])) for name in dataset.splits}
    return report_on(dataset, found, bad or [], max_tokens)


def lines_after(found: str, title: str) -> list[str]:
    """The lines under a title, up to the next empty one."""
    lines = found.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(title)) + 1
    end = lines.index("", start) if "" in lines[start:] else len(lines)
    return [line.strip() for line in lines[start:end]]


def problems(dataset: Dataset, bad: list[Bad] | None = None) -> list[str]:
    return lines_after(report(dataset, bad), "problems found:")


def image_files(root: Path, sizes: list[tuple[int, int]]) -> ImageFiles:
    """PNG files of (width, height), each another shade, in two classes in turn."""
    root.mkdir()
    for number, size in enumerate(sizes):
        file = io.BytesIO()
        Image.new("RGB", size, (number, 0, 0)).save(file, "PNG")
        (root / f"{number}.png").write_bytes(file.getvalue())
    paths = np.array([f"{number}.png" for number in range(len(sizes))], dtype=object)
    return ImageFiles(root, paths, np.arange(len(sizes), dtype=np.int64) % 2)


def test_the_classes_are_counted_in_every_split() -> None:
    dataset = Dataset(
        "some", "text", ("no", "a longer name"), texts(1500, 2), None, texts(7, 2, "test")
    )
    assert report(dataset).split("\n")[:6] == [
        "some: texts, 2 classes",
        "",
        "  class          train  test",
        "  no               750     4",
        "  a longer name    750     3",
        "  all            1,500     7",
    ]


def test_each_of_several_labels_has_a_table_with_what_is_missing() -> None:
    def labelled(number: int) -> Examples:
        labels = np.array([[i % 2, i % 4 - 1] for i in range(number)])
        return Examples(np.array([f"text {i} of {number}" for i in range(number)], object), labels)

    heads = (Head("mood", ("bad", "good")), Head("place", ("x", "y", "z")))
    dataset = Dataset(
        "some", "text", ("bad", "good"), labelled(1600), None, labelled(7), heads=heads
    )
    found = report(dataset)
    assert found.split("\n")[:13] == [
        "some: texts, 2 labels: mood (2 classes), place (3 classes)",
        "",
        "  mood  train  test",
        "  bad     800     4",
        "  good    800     3",
        "  all   1,600     7",
        "",
        "  place      train  test",
        "  x            400     2",
        "  y            400     2",
        "  z            400     1",
        "  (missing)    400     2",
        "  all        1,600     7",
    ]
    samples = lines_after(found, "samples of the training split")
    assert samples[0] == "mood bad, place missing: text 0 of 1600"
    assert samples[-1] == "mood good, place z: text 1599 of 1600"


def test_small_and_uneven_classes_of_several_labels_are_named_with_their_label() -> None:
    labels = np.array([[i % 2, 0 if i < 50 else 1 if i < 53 else -1] for i in range(60)])
    texts = np.array([f"text {i}" for i in range(60)], object)
    heads = (Head("mood", ("bad", "good")), Head("place", ("x", "y", "z")))
    dataset = Dataset("some", "text", ("bad", "good"), Examples(texts, labels), heads=heads)
    assert problems(dataset) == [
        "class 'y' of place has 3 training examples",
        "class 'z' of place has 0 training examples",
        "the largest class of place has 50 training examples, the smallest 3: consider "
        "--imbalance class_weights",
    ]


def test_of_many_classes_the_largest_and_the_smallest_are_shown() -> None:
    classes = MOST_CLASSES + 5
    labels = [label for label in range(classes) for _ in range(10 + classes - label)]
    train = examples([f"text {i}" for i in range(len(labels))], labels)
    dataset = Dataset("many", "text", tuple(f"c{i}" for i in range(classes)), train, None, None)
    found = report(dataset)
    rows = [line.split() for line in lines_after(found, "  class")]
    shown = [row[0] for row in rows if row[0].startswith("c")]
    half = MOST_CLASSES // 2
    assert shown == [f"c{i}" for i in (*range(half), *range(half + 5, classes))]
    assert "  ... 5 classes between" in found
    assert rows[half] == ["...", "5", "classes", "between"]
    assert rows[0] == ["c0", "55"]
    assert rows[-1] == ["all", f"{len(labels):,}"]


@pytest.mark.parametrize(("classes", "between"), [(MOST_CLASSES, False), (MOST_CLASSES + 1, True)])
def test_classes_are_left_out_only_beyond_the_limit(classes: int, between: bool) -> None:
    names = tuple(f"c{i}" for i in range(classes))
    dataset = Dataset("many", "text", names, texts(5 * classes, classes), None, None)
    assert ("classes between" in report(dataset)) == between


def test_images_of_one_size_are_told_in_one_line(tmp_path: Path) -> None:
    files = image_files(tmp_path / "equal", [(7, 5)] * 4)
    found = report(Dataset("equal", "image", ("a", "b"), files, None, files))
    assert "image sizes: all 7x5" in found.split("\n")
    pixels = Examples(np.zeros((4, 5, 7, 3), np.uint8), np.array([0, 1, 0, 1], np.int64))
    found = report(Dataset("pixels", "image", ("a", "b"), pixels, None, None))
    assert "image sizes: all 7x5" in found.split("\n")


def test_mixed_sizes_are_told_by_their_ends_and_the_most_frequent(tmp_path: Path) -> None:
    train = image_files(tmp_path / "train", [(30, 4), (8, 9), (8, 9)])
    test = image_files(tmp_path / "test", [(8, 9), (5, 40)])
    found = report(Dataset("mixed", "image", ("a", "b"), train, None, test))
    assert (
        "image sizes: 3 different, 5 to 30 wide, 4 to 40 high; the most frequent 8x9 (3)"
        in found.split("\n")
    )
    assert "text lengths" not in found


def test_text_lengths_are_told_for_each_split_with_how_many_would_be_cut() -> None:
    dataset = Dataset("some", "text", ("a", "b"), texts(101, 2), None, texts(3, 2, "test"))
    lengths = {"train": list(range(1, 102)), "test": [5, 1, 2000]}
    found = report(dataset, lengths=lengths, max_tokens=99)
    rows = lines_after(found, "text lengths in tokens (smallest, median, 95%, largest)")
    assert rows == [
        "train      1, 51, 96, 101; 2 longer than max_tokens = 99",
        "test       1, 5, 2,000, 2,000; 1 longer than max_tokens = 99",
    ]
    assert "image sizes" not in found


def test_samples_come_from_all_of_the_training_split_with_their_labels() -> None:
    dataset = Dataset("some", "text", ("a", "b"), texts(101, 2), None, None)
    rows = lines_after(report(dataset), "samples of the training split")
    assert rows == ["a: text 0", "b: text 25", "a: text 50", "b: text 75", "a: text 100"]


def test_a_sample_is_one_short_line_whatever_the_text_holds() -> None:
    inputs = ["a\r\nb\t c", "好" * 99, "x" * 1_000_000, "word " * 50, "short"]
    train = examples(inputs, [0, 1, 0, 1, 0])
    rows = lines_after(report(Dataset("odd", "text", ("a", "b"), train)), "samples")
    assert rows[0] == "a: a b c"
    assert rows[1] == "b: " + "好" * 99
    assert rows[2] == "a: " + "x" * 100 + " ..."
    assert rows[3].startswith("b: word word") and rows[3].endswith(" ...") and len(rows[3]) < 110
    assert rows[4] == "a: short"


def test_samples_of_images_are_their_files(tmp_path: Path) -> None:
    files = image_files(tmp_path / "files", [(2, 2)] * 9)
    rows = lines_after(report(Dataset("files", "image", ("a", "b"), files)), "samples")
    assert rows[1] == f"a: {tmp_path}/files/2.png"
    assert len(rows) == 5


def test_fewer_examples_than_samples_are_no_problem() -> None:
    dataset = Dataset("two", "text", ("a", "b"), texts(2, 2))
    assert {"a: text 0", "b: text 1"} == set(lines_after(report(dataset), "samples"))


def test_a_good_dataset_has_no_problems() -> None:
    dataset = Dataset(
        "good", "text", ("a", "b"), texts(20, 2), texts(4, 2, "dev"), texts(6, 2, "test")
    )
    assert report(dataset).endswith("problems found: 0")


def test_bad_examples_come_first_with_place_and_reason() -> None:
    bad = [Bad("a.csv, line 3", "empty line"), Bad("a.csv, line 9", "column 'text' is empty")]
    dataset = Dataset("bad", "text", ("a", "b"), texts(8, 2))
    found = problems(dataset, bad)
    assert found[:2] == ["a.csv, line 3: empty line", "a.csv, line 9: column 'text' is empty"]
    assert found[2:] == ["class 'a' has 4 training examples", "class 'b' has 4 training examples"]


def test_the_number_of_problems_is_that_of_all_though_some_are_not_shown() -> None:
    bad = [Bad(f"a.csv, line {i}", "empty line") for i in range(MOST_PROBLEMS + 7)]
    dataset = Dataset("bad", "text", ("a", "b"), texts(20, 2))
    found = report(dataset, bad)
    assert f"problems found: {MOST_PROBLEMS + 7}" in found
    shown = lines_after(found, "problems found")
    assert len(shown) == MOST_PROBLEMS + 1
    assert shown[-1] == "... and 7 more"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((5, 5), []),
        ((4, 5), ["class 'c0' has 4 training examples"]),
        ((0, 9, 9), ["class 'c0' has 0 training examples"]),
        ((60, 6), []),
        (
            (1061, 6),
            [
                "the largest class has 1,061 training examples, the smallest 6: consider "
                "--imbalance class_weights"
            ],
        ),
    ],
)
def test_small_and_uneven_classes_are_named(sizes: tuple[int, ...], expected: list[str]) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    train = examples([f"text {i}" for i in range(len(labels))], labels)
    names = tuple(f"c{i}" for i in range(len(sizes)))
    assert problems(Dataset("uneven", "text", names, train)) == expected


def test_repeated_and_shared_examples_are_counted() -> None:
    train = examples(["same", *(f"text {i}" for i in range(10)), "same", "same"], [0, 1] * 6 + [0])
    test = examples(["new", "text 3", "text 3"], [0, 1, 1])
    dataset = Dataset("double", "text", ("a", "b"), train, texts(2, 2, "dev"), test)
    assert problems(dataset) == [
        "2 training examples repeat another one",
        "2 examples of the test split are in the training split too",
    ]


def test_equal_images_are_found_by_their_content(tmp_path: Path) -> None:
    files = image_files(tmp_path / "train", [(2, 2)] * 12)
    other = image_files(tmp_path / "test", [(2, 2)] * 3)  # the same shades
    assert problems(Dataset("equal", "image", ("a", "b"), files, None, other)) == [
        "3 examples of the test split are in the training split too"
    ]
    pixels = np.zeros((12, 2, 2, 1), np.uint8)
    pixels[:11, 0, 0, 0] = np.arange(1, 12)
    pixels[3] = pixels[4]
    train = Examples(pixels, np.arange(12, dtype=np.int64) % 2)
    assert problems(Dataset("pixels", "image", ("a", "b"), train)) == [
        "1 training examples repeat another one"
    ]
