"""`python -m app train`: train, evaluate and keep a classifier, on all ranks of the launcher."""

import argparse

from app.commands.parser import add_json, add_recipe, results
from app.distributed.launcher import read_launcher, read_task
from app.elastic.door import DOOR
from app.errors import UserError
from app.monitor.options import Monitoring, ProfiledSteps
from app.parameter_servers.check import check as check_parameter_servers
from app.recipe import add_flags, given_keys, load
from app.stop import STOP


def add_options(parser: argparse.ArgumentParser) -> None:
    """Flags for every key of a config, and how the run is watched."""
    parser.description = (
        "Train, evaluate and keep an image or text classifier, on all ranks of the launcher "
        "(horovodrun, mpirun, MPIJob) or in this process alone. Flags override the recipe; a "
        "recipe overrides the defaults in [brackets]."
    )
    parser.usage = (
        "python -m app train [--recipe FILE] [--run-dir DIR] [--resume] [--quiet] [--json] "
        "[--profile FIRST:LAST] [--timeline] [--KEY VALUE ...]"
    )
    add_recipe(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in --run-dir; without one, start from scratch",
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors; logs are kept")
    add_json(parser, "the final metrics, the run directory and the checkpoint")
    parser.add_argument(
        "--profile",
        type=ProfiledSteps.parse,
        metavar="FIRST:LAST[@RANK,...]",
        help="record these steps for TensorBoard's profiler, on rank 0, on those given, or @all",
    )
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="record the collectives of all ranks in RUN/timeline.json, for ui.perfetto.dev",
    )
    add_flags(parser)


def run(options: argparse.Namespace) -> None:
    """Rank 0 looks for mistakes before any rank spends time on loading TensorFlow."""
    with STOP.listening(), results(options) as found:
        config = load(options.recipe, given_keys(options))
        if DOOR.run is not None:  # the run has begun already
            config, options.resume = config.in_directory(DOOR.run), True
        if options.resume and config.run.run_dir is None:
            raise UserError("--resume needs --run-dir, the directory of the run to continue")
        launched, task = read_launcher(), read_task()
        monitoring = Monitoring(options.quiet, options.profile, options.timeline)
        if task is not None and not task.leads:
            from app.parameter_servers.serve import serve

            serve(task)
        if launched.rank == 0 and not DOOR.joins:
            from app.preflight import check

            check(config, options.resume, launched.size if task is None else 1)
            if task is not None:
                check_parameter_servers(config, monitoring)
        from app.train import train

        found.append(train(config, resume=options.resume, monitoring=monitoring))
