"""`python -m app predict RUN file.jpg dir/ -`: classes of images or texts, as JSON Lines.

Inputs are read as a stream and answered batch by batch, so any number of them takes the memory of
one batch, and the command works in a pipe. What is wrong with one input is said in its place.
"""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import tensorflow as tf

from app.commands.predict_inputs import Item, read_items
from app.commands.saved_run import SavedRun, open_run
from app.data.batches import padded
from app.data.images import decode_images
from app.data.sources.image_files import read_header
from app.errors import UserError


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
            path); for a run on texts: .txt (a text per line), .csv, .tsv, .jsonl, .json, .parquet.
            "-" is JSON Lines on standard input: {"text": ...}, {"image": path}, or the text or path
            alone. Where the run joins columns, {"title": ..., "body": ...} and tables with these
            are joined likewise; "text" and a text alone are taken as joined already.
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
    answer, items = Predictor(run, top), read_items(run, inputs)
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
        def spec(given: Any) -> tf.TensorSpec:
            return tf.TensorSpec(given.shape, tf.uint8 if run.kind == "image" else given.dtype)

        signature = [tf.nest.map_structure(spec, run.classifier.network.input)]
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
        """What the network reads, such as ids int32 (n, longest); nothing is wrong with a text
        here."""
        if not texts:
            return (), {}
        return padded(self.run.tokenizer.encode(np.array(texts, dtype=object))[0]), {}

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
