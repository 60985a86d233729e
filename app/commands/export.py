"""`python -m app export RUN --format FORMAT`: a model that needs only TensorFlow."""

import argparse

from app.commands.parser import add_checkpoint, add_output, add_run, refuse_launcher
from app.errors import UserError, suggest

NAMES = {"keras": "model.keras", "savedmodel": "savedmodel", "tflite": "model.tflite"}
QUANTIZE = ("float16", "int8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run and the format."""
    parser.description = (
        "Write the run's model with its preprocessing inside, load it again in a fresh process, "
        "compare its predictions, and put a model card beside it."
    )
    formats, precisions = "|".join(NAMES), "|".join(QUANTIZE)
    parser.usage = (
        f"python -m app export RUN --format {formats} [--quantize {precisions}] "
        "[--checkpoint NAME] [--weights ema|last] [--output PATH]"
    )
    add_run(parser)
    parser.add_argument("--format", required=True, metavar=formats, help="what to write")
    parser.add_argument(
        "--quantize", metavar=precisions, help="for tflite: store the weights in fewer bits"
    )
    add_checkpoint(parser)
    add_output(parser, "PATH", "where to write (default RUN/export/NAME)")


def run(options: argparse.Namespace) -> None:
    """Export in this process."""
    _check_choice(options.format, options.quantize)
    refuse_launcher("export")
    from app.commands.export_model import export

    chosen = options.checkpoint, options.weights
    export(options.run, options.format, options.output, options.quantize, *chosen)


def _check_choice(format: str, quantize: str | None) -> None:
    if format not in NAMES:
        raise UserError(f"unknown --format '{format}': {suggest(format, NAMES)}")
    if quantize is not None and quantize not in QUANTIZE:
        raise UserError(f"unknown --quantize '{quantize}': {suggest(quantize, QUANTIZE)}")
    if quantize is not None and format != "tflite":
        raise UserError(f"--quantize {quantize} is for --format tflite, not for {format}")
