"""`python -m app calibrate RUN`: how sure a run's model should be, on all ranks of the launcher."""

import argparse

from app.commands.parser import add_checkpoint, add_json, add_run, results


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run."""
    parser.description = (
        "Find on the validation split by which temperature the run's logits must be divided so "
        "that its probabilities can be relied on, and keep it with the run: evaluate, predict and "
        "export use it from then on. Which class is the most probable one stays the same."
    )
    parser.usage = "python -m app calibrate RUN [--checkpoint NAME] [--json]"
    add_run(parser)
    add_checkpoint(parser)
    add_json(parser, "what is kept in RUN/calibration/CHECKPOINT.json")


def run(options: argparse.Namespace) -> None:
    """Calibrate on every rank."""
    with results(options) as found:
        from app.commands.calibrate_run import calibrate_run
        from app.distributed.devices import connect_configured

        found.append(calibrate_run(options.run, connect_configured(), options.checkpoint))
