"""`python -m app predict RUN file.jpg dir/ -`: classes of images or texts, as JSON Lines.

Inputs are read as a stream and answered batch by batch, so any number of them takes the memory of
one batch, and the command works in a pipe. What is wrong with one input is said in its place.
"""

import contextlib
import csv
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np
import tensorflow as tf

from app.data.folders import EXTENSIONS
from app.data.image_files import read_header
from app.data.images import decode_images
from app.data.tables import (
    SUFFIXES,
    RowError,
    check_characters,
    check_file,
    delimited_records,
    json_type,
    without_last_blanks,
)
from app.errors import UserError, suggest
from app.saved_run import SavedRun, open_run

TEXT_SUFFIXES = (".txt", *SUFFIXES)


class Item(NamedTuple):
    """One input: a text, or the path of an image; or what was given and why it is neither."""

    given: str
    error: str | None = None


def predict(
    run_dir: Path, inputs: Sequence[str], batch_size: int, top: int | None, output: Path | None
) -> int:
    """Predict every input with the run's newest weights and write one JSON object per line.

    `{"input": ..., "class": name, "probability": p, "probabilities": {name: p, ...}}`, the most
    probable class first, or `{"input": ..., "error": reason}`; in the order of the inputs, written
    whenever a batch is done.

    Args:
        run_dir: the directory of a run.
        inputs: for a run on images: image files, and folders of them (all images below, ordered by
            path); for a run on texts: .txt (a text per line), .csv, .tsv, .jsonl. "-" is JSON Lines
            on standard input: {"text": ...}, {"image": path}, or the text or path alone.
        batch_size: how many inputs are predicted, and written, at a time.
        top: how many classes to give probabilities of; None for all.
        output: a file to write to; None for standard output.

    Returns:
        The exit code: 0 if all were predicted, 1 if some were not.

    Raises:
        UserError: the command is wrong, there is no run, or the output cannot be written.
    """
    _check(inputs, batch_size, top, output)
    run = open_run(run_dir)
    answer, items = Predictor(run, top), _items(run, inputs)
    done = failed = 0
    try:
        with _opened(output) as file:
            while batch := list(itertools.islice(items, batch_size)):
                answers = answer(batch)
                file.write(b"".join(map(_line, answers)))
                file.flush()
                done += len(answers)
                failed += sum("error" in one for one in answers)
    except BrokenPipeError:  # whoever reads has enough, as `head` does
        _drop(sys.stdout)
        return 1 if failed else 0
    except OSError as error:  # of the output: what is wrong with inputs is in their answers
        _drop(sys.stdout)
        where = output or "standard output"
        raise UserError(f"cannot write to {where}: {error.strerror or error}") from None
    if failed:
        print(f"{failed:,} of {done:,} inputs could not be predicted", file=sys.stderr)
    return 1 if failed else 0


class Predictor:
    """Answers batches of inputs with the classes of a run."""

    def __init__(self, run: SavedRun, top: int | None = None):
        self.run = run
        self.top = top

        def forward(inputs):
            logits = tf.cast(run.classifier(inputs, training=False), tf.float32)
            return logits, tf.nn.softmax(logits)

        # Traced once, whatever the number and the length of the inputs.
        dtype = tf.uint8 if run.kind == "image" else tf.int32
        signature = [tf.TensorSpec(run.classifier.network.input_shape, dtype)]
        self._forward = tf.function(forward, input_signature=signature, autograph=False)

    def __call__(self, batch: Sequence[Item]) -> list[dict[str, Any]]:
        """The answer to each input of a batch, in their order."""
        sound = [item.given for item in batch if item.error is None]
        inputs, errors = (self._images if self.run.kind == "image" else self._texts)(sound)
        classes = self._classes(inputs)
        places = range(len(sound))
        of_sound = iter([{"error": errors[i]} if i in errors else next(classes) for i in places])
        return [
            {"input": item.given, **({"error": item.error} if item.error else next(of_sound))}
            for item in batch
        ]

    def _texts(self, texts: list[str]) -> tuple[Any, dict[int, str]]:
        """Token ids int32 (n, longest), padded with 0; nothing is wrong with a text here."""
        if not texts:
            return (), {}
        return self.run.encoder(np.array(texts, dtype=object))[0].to_tensor(), {}

    def _images(self, paths: list[str]) -> tuple[Any, dict[int, str]]:
        """The images that can be decoded, uint8 (good, h, w, c), and by place why others cannot."""
        height, width, _ = self.run.about["image_shape"]
        size = None if self.run.image_spec.size else (height, width)
        loaded = [_load_image(path, size) for path in paths]
        reasons = {place: one for place, one in enumerate(loaded) if isinstance(one, str)}
        places = [place for place in range(len(paths)) if place not in reasons]
        content = [one for one in loaded if isinstance(one, bytes)]
        images, undecoded = decode_images(content, self.run.image_spec)
        return images, reasons | {places[index]: reason for index, reason in undecoded}

    def _classes(self, inputs: Any) -> Iterator[dict[str, Any]]:
        """The class, its probability and those of the `top` classes, of each row."""
        names = self.run.class_names
        both = (tensor.numpy() for tensor in self._forward(inputs))
        for logits, probabilities in zip(*both, strict=True):
            if not np.isfinite(probabilities).all():
                yield {"error": "the model gives no finite numbers: has its training diverged?"}
                continue
            # By logits: probabilities may round to the same number. Of equals the first class.
            order = np.argsort(-logits, kind="stable")[: self.top]
            found = {names[label]: float(probabilities[label]) for label in order}
            best = names[order[0]]
            yield {"class": best, "probability": found[best], "probabilities": found}


def _check(inputs: Sequence[str], batch_size: int, top: int | None, output: Path | None) -> None:
    for flag, number in (("--batch-size", batch_size), ("--top", top)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected at least 1")
    if not inputs:
        raise UserError("nothing to predict: give files, folders, or - for standard input")
    if inputs.count("-") > 1:
        raise UserError("'-' is given twice, but standard input can be read only once")
    if output and os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UserError(f"--output {output} is one of the inputs: give another file")


def _opened(output: Path | None) -> contextlib.AbstractContextManager[BinaryIO]:
    # In bytes: JSON Lines are UTF-8 whatever the encoding of the terminal.
    return contextlib.nullcontext(sys.stdout.buffer) if output is None else output.open("wb")


def _line(answer: dict[str, Any]) -> bytes:
    # Half a surrogate pair, as in a file name that is not UTF-8, becomes \udcff: JSON's escape.
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _drop(stream: TextIO) -> None:
    """What could not be written is not tried again, with a traceback, when Python ends."""
    with contextlib.suppress(OSError):  # no file of the system, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _items(run: SavedRun, inputs: Iterable[str]) -> Iterator[Item]:
    """Every input in order; a file that cannot be read is one input with an error."""
    key = run.config.data.input_key
    keys = ([key] if key else []) + [run.kind]
    for given in inputs:
        try:
            if given == "-":
                yield from _standard_input(keys)
            elif run.kind == "text":
                yield from _text_file(Path(given), keys)
            elif os.path.isdir(given):
                yield from _images_of(given)
            else:
                yield Item(given)
        except UserError as error:
            yield Item(given, str(error))
        except OSError as error:
            yield Item(given, f"cannot be read: {error.strerror or error}")


def _images_of(folder: str) -> Iterator[Item]:
    """All images in a folder, or an error if it has none."""
    images = _images_below(folder, ())
    first = next(images, None)
    looked_for = " ".join(EXTENSIONS)
    yield first or Item(folder, f"no image in this folder: looked for {looked_for}")
    yield from images


def _images_below(folder: str, above: tuple[str, ...]) -> Iterator[Item]:
    """Images by their names, ordered by path; nothing hidden."""
    real = os.path.realpath(folder)
    if real in above:
        yield Item(folder, "symbolic links lead in a circle: remove one")
        return
    try:
        with os.scandir(folder) as entries:
            # With the slash that their paths have, folders come where sorted paths have them.
            names = sorted(entry.name + "/" * os.path.isdir(entry.path) for entry in entries)
    except OSError as error:
        yield Item(folder, f"cannot be read: {error.strerror or error}")
        return
    for name in names:
        path = os.path.join(folder, name.rstrip("/"))
        if name.startswith("."):
            continue
        if name.endswith("/"):
            yield from _images_below(path, (*above, real))
        elif name.lower().endswith(EXTENSIONS):
            yield Item(path)


def _load_image(path: str, size: tuple[int, int] | None) -> bytes | str:
    """The bytes of an image file, or what is wrong with it.

    `size`: the (height, width) that it must have, None if it will be resized.
    """
    try:
        if not os.path.isfile(path):  # a pipe, for one, could block for ever
            return "not a file" if os.path.exists(path) else "no such file"
        header = read_header(path)
        if isinstance(header, str):
            return header
        if size and (header.height, header.width) != size:
            return (
                f"{header.width}x{header.height} pixels, but this run reads {size[1]}x{size[0]}: "
                "resize it (runs on square images resize them by themselves)"
            )
        return Path(path).read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _standard_input(keys: Sequence[str]) -> Iterator[Item]:
    with open(
        sys.stdin.fileno(),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="\n",
        closefd=False,
    ) as file:
        yield from _rows("standard input", _lines(file), functools.partial(_parse_json, keys))


def _text_file(path: Path, keys: Sequence[str]) -> Iterator[Item]:
    """The texts of a file: one per line, JSON object or row."""
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in TEXT_SUFFIXES:
        raise UserError(f"{path}: expected a file that ends with {', '.join(TEXT_SUFFIXES)}")
    newline = "" if suffix in (".csv", ".tsv") else "\n"
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
        if suffix in (".csv", ".tsv"):
            yield from _delimited(path, file, keys)
        else:
            parse = functools.partial(_parse_json, keys) if suffix != ".txt" else str
            yield from _rows(str(path), _lines(file), parse)


def _delimited(path: Path, file: TextIO, keys: Sequence[str]) -> Iterator[Item]:
    """The texts in a column of a CSV or TSV file."""
    csv.field_size_limit(sys.maxsize)  # 131072 characters otherwise, for the whole process
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    options = tabs if path.suffix.lower() == ".tsv" else {}
    records = delimited_records(path, csv.reader(file, strict=True, **options))
    header: list[str] = next(records, (1, []))[1]
    column = next((header.index(key) for key in keys if key in header), None)
    if column is None:
        raise UserError(f"{path} has no column '{keys[0]}': {suggest(keys[0], header)}")

    def parse(fields: list[str]) -> str:
        if fields and len(fields) != len(header):
            raise RowError(f"{len(fields)} fields, but the header has {len(header)}")
        return fields[column] if fields else ""

    yield from _rows(str(path), records, parse)


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Lines counted from 1, without their ends."""
    return ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1))


def _rows(
    where: str, records: Iterator[tuple[int, Any]], parse: Callable[[Any], str]
) -> Iterator[Item]:
    """An input for each record of a file; blank lines at its end are none."""
    for line, record in without_last_blanks(records):
        try:
            given = parse(record)
            check_characters(given)
            if not given or given.isspace():
                raise RowError("empty")
        except RowError as problem:
            shown = record if isinstance(record, str) else ",".join(record)
            yield Item(shown, f"{where}, line {line}: {problem}")
        else:
            yield Item(given)


def _parse_json(keys: Sequence[str], line: str) -> str:
    """The string under the first of `keys` that an object has; or a string itself."""
    expected = f'expected {{"{keys[0]}": "..."}} or a string'
    check_characters(line)
    try:
        found = json.loads(line) if line.strip() else ""
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON: {error.msg} at column {error.colno}: {expected}") from None
    except (ValueError, RecursionError):
        raise RowError("not readable JSON: a number too long, or nested too deeply") from None
    if isinstance(found, dict):
        key = next((key for key in keys if key in found), None)
        if key is None:
            held = ", ".join(map(repr, found)) or "none"
            raise RowError(f"no key '{keys[0]}'; it has {held}")
        found = found[key]
    if not isinstance(found, str):
        raise RowError(f"{expected}; got {json_type(found)}")
    return found
