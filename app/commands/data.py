"""`python -m app data SOURCE`: what a source holds, or a copy of it for fast streaming."""

import argparse
from pathlib import Path

from app.commands.parser import add_recipe, refuse_launcher
from app.errors import UserError
from app.recipe import add_flags, given_keys, load


def add_options(parser: argparse.ArgumentParser) -> None:
    """The source, and the keys of [data]."""
    parser.description = (
        "Print the splits of a dataset, its classes, sizes and lengths, sample rows, and every "
        "problem found; or write it as TFRecord files for fast streaming."
    )
    parser.usage = (
        "python -m app data [SOURCE] [--recipe FILE] [--export tfrecord DIR] [--KEY VALUE]"
    )
    parser.add_argument(
        "dataset", nargs="?", default=argparse.SUPPRESS, metavar="SOURCE", help="same as --dataset"
    )
    add_recipe(parser)
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("tfrecord", "DIR"),
        help="write the splits to this new directory; images keep their bytes, unless --image-size "
        "is given",
    )
    add_flags(parser, only="data")


def run(options: argparse.Namespace) -> None:
    """Show the data in this process."""
    config = load(options.recipe, given_keys(options))
    if options.export and options.export[0] != "tfrecord":
        raise UserError(f"--export {options.export[0]}: the only format is tfrecord")
    refuse_launcher("data")
    from app.commands.show_data import show_data

    show_data(config, Path(options.export[1]) if options.export else None)
