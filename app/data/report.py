"""`python -m app data SOURCE`: what a source holds, and what is wrong with it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from app.columns import columns
from app.data.bad import Bad
from app.data.examples import EXAMPLES_AT_ONCE, Dataset, Source
from app.data.heads import MISSING, Head, by_head
from app.data.sources.image_files import Header, read_header

MOST_CLASSES = 40  # more are shown by their ends
MOST_PROBLEMS = 20  # and as many notes
SAMPLES = 5
SAMPLE_CHARACTERS = 100
FEW_EXAMPLES = 5
UNEVEN = 10


def report_on(
    dataset: Dataset,
    lengths: Mapping[str, np.ndarray],
    bad: list[Bad],
    max_tokens: int,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> str:
    """The report, as lines of text.

    Args:
        dataset: without the bad examples.
        lengths: how many tokens each text of each split has, int (n,); not for images.
        bad: the examples that were left out.
        max_tokens: where training would cut texts.
        notes: which files were skipped, and which classes were merged.
        warnings: other problems, behind the bad examples.
    """
    lines = [f"{dataset.name}: {dataset.kind}s, {_labels(dataset)}", *dataset.notes]
    for number in range(len(dataset.heads)):
        lines += ["", _class_table(dataset, number)]
    contents = {name: _look_into(source) for name, source in dataset.splits.items()}
    if dataset.kind == "image":
        lines += _sizes(sum((sizes for _, sizes, _ in contents.values()), Counter()))
        lines += _changed(sum((changed for _, _, changed in contents.values()), Counter()))
    else:
        lines += _lengths(lengths, max_tokens)
    lines += ["", "samples of the training split"]
    lines += [f"  {line}" for line in _samples(dataset)]
    if notes:
        lines += ["", "skipped files and merged classes", *_first(notes)]
    problems = [f"{one.where}: {one.reason}" for one in bad]
    problems += [*warnings, *_without_tokens(dataset, lengths)]
    problems += _problems(dataset, {name: seen for name, (seen, _, _) in contents.items()})
    return "\n".join([*lines, "", *_list(problems)])


def report_bad(bad: list[Bad]) -> str:
    """The bad examples alone, as lines of text, for a source about which nothing else is known."""
    return "\n".join(_list([f"{one.where}: {one.reason}" for one in bad]))


def _list(problems: list[str]) -> list[str]:
    return [f"problems found: {len(problems)}", *_first(problems)]


def _first(found: Sequence[str]) -> list[str]:
    left = len(found) - MOST_PROBLEMS
    rest = [f"... and {left} more"] if left > 0 else []
    return [f"  {line}" for line in [*found[:MOST_PROBLEMS], *rest]]


def _labels(dataset: Dataset) -> str:
    if len(dataset.heads) == 1:
        return f"{len(dataset.class_names)} classes"
    named = (f"{name} ({len(classes)} classes)" for name, classes in dataset.heads)
    return f"{len(dataset.heads)} labels: {', '.join(named)}"


def _class_table(dataset: Dataset, number: int) -> str:
    """Examples of each class of a label in each split, the most frequent of many first."""
    head, several = dataset.heads[number], len(dataset.heads) > 1
    classes = len(head.class_names)
    counts = {name: _counts(source, number, head) for name, source in dataset.splits.items()}
    shown = list(range(classes))
    if classes > MOST_CLASSES:
        by_size = np.argsort(-counts["train"], kind="stable").tolist()
        shown = by_size[: MOST_CLASSES // 2] + by_size[-MOST_CLASSES // 2 :]
    rows = [[head.class_names[i], *(f"{column[i]:,}" for column in counts.values())] for i in shown]
    if classes > MOST_CLASSES:
        between = f"... {classes - MOST_CLASSES} classes between"
        rows.insert(MOST_CLASSES // 2, [between, *[""] * len(counts)])
    sizes = {name: len(source) for name, source in dataset.splits.items()}
    missing = [sizes[name] - int(column.sum()) for name, column in counts.items()]
    if any(missing):
        rows.append(["(missing)", *(f"{one:,}" for one in missing)])
    total = ["all", *(f"{size:,}" for size in sizes.values())]
    return columns([[head.name if several else "class", *counts], *rows, total], numbers=True)


def _counts(source: Source, number: int, head: Head) -> np.ndarray:
    """Examples of each class of a label, int (classes,)."""
    labels = by_head(source.labels)[:, number]
    return np.bincount(labels[labels != MISSING], minlength=len(head.class_names))


def _sizes(sizes: Counter[tuple[int, int]]) -> list[str]:
    if not sizes:
        return []
    if len(sizes) == 1:
        (width, height), _ = sizes.most_common(1)[0]
        return ["", f"image sizes: all {width}x{height}"]
    (width, height), count = sizes.most_common(1)[0]
    widths, heights = zip(*sizes, strict=True)
    return [
        "",
        f"image sizes: {len(sizes)} different, {min(widths)} to {max(widths)} wide, "
        f"{min(heights)} to {max(heights)} high; the most frequent {width}x{height} ({count:,})",
    ]


def _changed(changed: Counter[str]) -> list[str]:
    """How many images are decoded to something other than the stored pixels."""
    turned, alpha = changed["turned"], changed["alpha"]
    lines = [f"turned upright as their EXIF data say: {turned:,} images"] if turned else []
    if alpha:
        lines.append(f"with transparency, shown on the colour of --background: {alpha:,} images")
    return lines


def _lengths(lengths_of: Mapping[str, np.ndarray], max_tokens: int) -> list[str]:
    lines = ["", "text lengths in tokens (smallest, median, 95%, largest)"]
    for name, lengths in lengths_of.items():
        low, median, high, top = np.percentile(lengths, [0, 50, 95, 100], method="nearest")
        cut = int((lengths > max_tokens).sum())
        lines.append(
            f"  {name:10} {low:,}, {median:,}, {high:,}, {top:,}; {cut:,} longer than max_tokens "
            f"= {max_tokens}"
        )
    return lines


def _samples(dataset: Dataset) -> Iterator[str]:
    rows = np.linspace(0, len(dataset.train) - 1, SAMPLES).round().astype(int)
    contents = dataset.train.read(rows)
    for row, content in zip(rows, contents, strict=True):
        label = _label_of(dataset, by_head(dataset.train.labels)[row])
        where = dataset.train.where(int(row))
        if dataset.kind == "text":
            text = content if isinstance(content, str) else content.decode("utf-8", "replace")
            short = " ".join(text[: 2 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS]
            yield f"{label}: {short}{' ...' if len(text) > SAMPLE_CHARACTERS else ''}"
        else:
            yield f"{label}: {where}"


def _label_of(dataset: Dataset, labels: np.ndarray) -> str:
    """The classes of one example; labels: int (heads,)."""
    if len(dataset.heads) == 1:
        return dataset.class_names[labels[0]]
    return ", ".join(
        f"{name} {'missing' if label == MISSING else classes[label]}"
        for (name, classes), label in zip(dataset.heads, labels, strict=True)
    )


def _without_tokens(dataset: Dataset, lengths_of: Mapping[str, np.ndarray]) -> Iterator[str]:
    for name, lengths in lengths_of.items():
        rows = np.flatnonzero(lengths == 0)
        if len(rows):
            yield (
                f"{len(rows):,} texts of the {name} split have no token, so a model cannot tell "
                f"them apart; the first: {dataset.splits[name].where(int(rows[0]))}"
            )


def _problems(dataset: Dataset, contents: Mapping[str, Counter[bytes]]) -> Iterator[str]:
    for number, head in enumerate(dataset.heads):
        of = "" if len(dataset.heads) == 1 else f" of {head.name}"
        counts = _counts(dataset.train, number, head)
        for name, count in zip(head.class_names, counts, strict=True):
            if count < FEW_EXAMPLES:
                yield f"class '{name}'{of} has {count} training examples"
        smallest = int(counts[counts > 0].min())
        if counts.max() > UNEVEN * smallest:
            yield (
                f"the largest class{of} has {counts.max():,} training examples, the smallest "
                f"{smallest:,}: consider --imbalance class_weights"
            )
    seen = contents["train"]
    repeated = seen.total() - len(seen)
    if repeated:
        yield f"{repeated:,} training examples repeat another one"
    for name in contents.keys() - {"train"}:
        common = sum(number for key, number in contents[name].items() if key in seen)
        if common:
            yield f"{common:,} examples of the {name} split are in the training split too"


def _look_into(source: Source) -> tuple[Counter[bytes], Counter[tuple[int, int]], Counter[str]]:
    """How often each content comes, by its hash, and each (width, height) of images; and how many
    images are "turned" and have "alpha"."""
    contents: Counter[bytes] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    changed: Counter[str] = Counter()
    for start in range(0, len(source), EXAMPLES_AT_ONCE):
        rows = np.arange(start, min(start + EXAMPLES_AT_ONCE, len(source)))
        for content in source.read(rows):
            raw = content.encode("utf-8", "replace") if isinstance(content, str) else bytes(content)
            contents[hashlib.blake2b(raw, digest_size=12).digest()] += 1
            if isinstance(content, np.ndarray):
                sizes[content.shape[1], content.shape[0]] += 1
            elif isinstance(content, bytes) and isinstance(header := read_header(content), Header):
                sizes[header.width, header.height] += 1
                changed += Counter(turned=int(header.turned), alpha=int(header.alpha))
    return contents, sizes, changed
