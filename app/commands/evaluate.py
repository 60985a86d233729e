"""`python -m app evaluate RUN`: exact metrics of a trained run, on all ranks of the launcher."""

import argparse

from app.commands.parser import add_checkpoint, add_json, add_output, add_run, results
from app.recipe import add_flags, given_keys


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run, what to score it on, and the keys of [data]."""
    parser.description = (
        "Score a run exactly, on all ranks of the launcher or in this process alone."
    )
    parser.usage = (
        "python -m app evaluate RUN [--split NAME] [--data SOURCE] [--checkpoint NAME] "
        "[--weights ema|last] [--unknown-class NAME] [--output DIR] [--json] [--KEY VALUE]"
    )
    add_run(parser)
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        help="the split to score (default: test, or all of a source without splits)",
    )
    parser.add_argument(
        "--data",
        dest="dataset",
        metavar="SOURCE",
        default=argparse.SUPPRESS,
        help="score another source (default: the run's own data)",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--unknown-class",
        metavar="NAME",
        help="the class of what belongs to none of the others, such as out_of_scope: report how "
        "well it is told from them",
    )
    add_output(parser, "DIR", "where to write (default RUN/evaluations/SPLIT or SOURCE)")
    add_json(parser, "the content of evaluation.json")
    add_flags(parser, only="data")


def run(options: argparse.Namespace) -> None:
    """Score on every rank."""
    with results(options) as found:
        from app.commands.evaluate_run import evaluate_run
        from app.distributed.devices import connect_configured

        found.append(
            evaluate_run(
                options.run,
                given_keys(options),
                options.split,
                options.output,
                connect_configured(),
                options.checkpoint,
                options.weights,
                options.unknown_class,
            )
        )
