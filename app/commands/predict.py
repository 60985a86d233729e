"""`python -m app predict RUN file.jpg dir/ -`: classes of images or texts, as JSON Lines.

Inputs are read as a stream and answered batch by batch, so any number of them fits in the memory
of one batch, and the command works in a pipe.
"""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from app.commands.parser import (
    add_checkpoint,
    add_output,
    add_run,
    probability,
    refuse_launcher,
    whole_number,
)
from app.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run and its inputs."""
    parser.description = (
        "Print one JSON object for each input, in order. An input that cannot be predicted gets "
        "one that holds its error, and the command goes on. '-' reads JSON Lines from standard "
        "input."
    )
    parser.usage = (
        "python -m app predict RUN INPUT ... [--top K] [--abstain-below P] [--batch-size N] "
        "[--checkpoint NAME] [--weights ema|last] [--output FILE]"
    )
    add_run(parser)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, or -")
    number = whole_number(1)
    parser.add_argument(
        "--batch-size", type=number, default=64, metavar="N", help="inputs predicted at a time [64]"
    )
    parser.add_argument(
        "--top", type=number, metavar="K", help="probabilities of the first K classes [all]"
    )
    parser.add_argument(
        "--abstain-below",
        type=probability,
        metavar="P",
        help="the class is null where its probability is lower; calibrate the run first",
    )
    add_checkpoint(parser)
    add_output(parser, "FILE", "where to write [standard output]")


def run(options: argparse.Namespace) -> int:
    """Predict in this process."""
    refuse_launcher("predict")
    return predict(
        options.run,
        options.inputs,
        options.batch_size,
        options.top,
        options.output,
        options.checkpoint,
        options.weights,
        options.abstain_below,
    )


def predict(
    run_dir: Path,
    inputs: Sequence[str],
    batch_size: int,
    top: int | None,
    output: Path | None,
    checkpoint: str = "newest",
    weights: str | None = None,
    abstain_below: float | None = None,
) -> int:
    """Predict every input with a run's weights and write one JSON object per line.

    `{"input": ..., "class": name, "probability": p, "probabilities": {name: p, ...}}`, the most
    probable class first, or `{"input": ..., "error": reason}`; in the order of the inputs, written
    whenever a batch is done. Of several labels `{"input": ..., "heads": {label: {"class": ...,
    ...}, ...}}`.

    Args:
        run_dir: the directory of a run.
        inputs: for a run on images: image files, and folders of them (all images below, ordered by
            path); for a run on texts: .txt (a text per line), .csv, .tsv, .jsonl, .json, .parquet.
            "-" is JSON Lines on standard input: {"text": ...}, {"image": path}, or just the text or
            path. Where the run joins columns, {"title": ..., "body": ...} and tables with these
            columns are joined likewise; a "text" or a bare text is taken as already joined.
        batch_size: how many inputs are predicted, and written, at a time.
        top: how many classes to give probabilities of; None for all.
        output: a file to write to; None for standard output.
        checkpoint: "newest", "best", or the name of one.
        weights: "ema", "last", or None for the moving average if the run keeps one.
        abstain_below: the class is null where its probability is lower; None for never.

    Returns:
        The exit code: 0 if all were predicted, 1 if some were not.

    Raises:
        UserError: the command is wrong, there is no run, or the output cannot be written.
    """
    _check(inputs, output)
    from app.commands.predict_inputs import read_items
    from app.commands.predictor import Predictor
    from app.commands.saved_run import open_run

    opened = open_run(run_dir, checkpoint, weights)
    if opened.uses == "ema":
        print(
            "with the moving average of the weights; for the last: --weights last", file=sys.stderr
        )
    answer, items = Predictor(opened, top, abstain_below), read_items(opened, inputs)
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


def _check(inputs: Sequence[str], output: Path | None) -> None:
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
    """Keep Python from trying again at exit, with a traceback, to write what it could not."""
    with contextlib.suppress(OSError):  # not a real file, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
