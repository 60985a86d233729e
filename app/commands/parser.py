"""The commands: their flags, and what each of them starts. Imports TensorFlow only to run one."""

import argparse
import contextlib
import os
from pathlib import Path
from typing import Any, NoReturn

from app.distributed.launcher import read_launcher
from app.errors import UserError, suggest
from app.monitor import logs
from app.monitor.options import Monitoring, ProfiledSteps, only_json
from app.recipe import add_flags, load


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors, so that one rank reports them."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """(options of the command, config keys given as flags)."""
    parser = Parser(
        prog="python -m app", description="Train and use image and text classifiers with Horovod."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {
        add.__name__.removeprefix("_add_"): add(commands)
        for add in (_add_train, _add_data, _add_evaluate, _add_predict, _add_export, _add_compare)
    }
    commands.add_parser("doctor", help="what is wrong with this machine, and what to do")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        actions = parsers[options.command]._actions
        valid = [flag for action in actions for flag in action.option_strings]
        raise UserError(f"unknown argument '{unknown[0]}': {suggest(unknown[0], valid)}")
    no_keys = {"command", "run", "own", *options.own}
    overrides = {key: value for key, value in vars(options).items() if key not in no_keys}
    return options, overrides


def _command(commands: Any, run: Any, own: tuple[str, ...], name: str, **texts: str) -> Any:
    """A parser; `own` are the options that are no keys of a config."""
    parser = commands.add_parser(name, allow_abbrev=False, **texts)
    parser.set_defaults(run=run, own=own)
    return parser


def _add_train(commands: Any) -> Any:
    parser = _command(
        commands,
        _train,
        ("recipe", "resume", "quiet", "json", "profile", "timeline"),
        "train",
        help="train, evaluate and keep a classifier",
        description="Train, evaluate and keep an image or text classifier, on all ranks of the "
        "launcher (horovodrun, mpirun, MPIJob) or in this process alone. Flags override the "
        "recipe, a recipe overrides the defaults in [brackets].",
        usage="python -m app train [--recipe FILE] [--run-dir DIR] [--resume] [--quiet] [--json] "
        "[--profile FIRST:LAST] [--timeline] [--KEY VALUE ...]",
    )
    _add_recipe(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --run-dir; start there if it holds none",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors alone; logs are kept")
    _add_json(parser, "the final metrics, the run directory and the checkpoint")
    parser.add_argument(
        "--profile",
        type=ProfiledSteps.parse,
        metavar="FIRST:LAST[@RANK,...]",
        help="record these steps for TensorBoard's profiler, on rank 0, or those given, or @all",
    )
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="record the collectives of all ranks in RUN/timeline.json, for ui.perfetto.dev",
    )
    add_flags(parser)
    return parser


def _train(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    config = load(options.recipe, overrides)
    if options.resume and config.run.run_dir is None:
        raise UserError("--resume needs --run-dir, the directory of the run to go on with")
    launched = read_launcher()
    if launched.rank == 0:
        from app.preflight import check

        check(config, options.resume, launched.size)
    with _output(options, options.quiet) as results:
        from app.train import train

        monitoring = Monitoring(options.quiet, options.profile, options.timeline)
        results.append(train(config, resume=options.resume, monitoring=monitoring))


def _add_data(commands: Any) -> Any:
    parser = _command(
        commands,
        _data,
        ("recipe", "export"),
        "data",
        help="show what a dataset holds and what is wrong with it",
        description="Print the splits of a dataset, its classes, sizes and lengths, sample rows, "
        "and every problem found; or write it as TFRecord files for fast streaming.",
        usage="python -m app data [SOURCE] [--recipe FILE] [--export tfrecord DIR] [--KEY VALUE]",
    )
    parser.add_argument(
        "dataset", nargs="?", default=argparse.SUPPRESS, metavar="SOURCE", help="as --dataset"
    )
    _add_recipe(parser)
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("tfrecord", "DIR"),
        help="write the splits to this new directory; images keep their bytes, unless --image-size "
        "is given",
    )
    add_flags(parser, only="data")
    return parser


def _data(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    config = load(options.recipe, overrides)
    if options.export and options.export[0] != "tfrecord":
        raise UserError(f"--export {options.export[0]}: the only format is tfrecord")
    _alone("data")
    from app.commands.show_data import show_data

    show_data(config, Path(options.export[1]) if options.export else None)


def _add_evaluate(commands: Any) -> Any:
    parser = _command(
        commands,
        _evaluate,
        ("run_dir", "split", "output", "json"),
        "evaluate",
        help="score a run on a split or another dataset",
        description="Score a run exactly, on all ranks of the launcher or in this process alone.",
        usage="python -m app evaluate RUN [--split NAME] [--data SOURCE] [--output DIR] "
        "[--json] [--KEY VALUE]",
    )
    _add_run(parser)
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
    _add_output(parser, "DIR", "where to write (default RUN/evaluations/SPLIT or SOURCE)")
    _add_json(parser, "what evaluation.json holds")
    add_flags(parser, only="data")
    return parser


def _evaluate(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    with _output(options) as results:
        from app.commands.evaluate_run import evaluate_run
        from app.distributed.devices import connect_configured

        run, split, output = options.run_dir, options.split, options.output
        results.append(evaluate_run(run, overrides, split, output, connect_configured()))


def _add_predict(commands: Any) -> Any:
    parser = _command(
        commands,
        _predict,
        ("run_dir", "inputs", "batch_size", "top", "output"),
        "predict",
        help="predict images or texts, as JSON Lines",
        description="One JSON object for each input, in order; a wrong input gives one with its "
        "error and does not end the run. '-' reads JSON Lines from standard input.",
        usage="python -m app predict RUN INPUT ... [--top K] [--batch-size N] [--output FILE]",
    )
    _add_run(parser)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, or -")
    parser.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="[64]")
    parser.add_argument(
        "--top", type=_positive, metavar="K", help="probabilities of the first K classes [all]"
    )
    _add_output(parser, "FILE", "where to write [standard output]")
    return parser


def _predict(options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    _alone("predict")
    from app.commands.predictor import predict

    return predict(options.run_dir, options.inputs, options.batch_size, options.top, options.output)


def _add_export(commands: Any) -> Any:
    parser = _command(
        commands,
        _export,
        ("run_dir", "format", "quantize", "output"),
        "export",
        help="write a model that needs TensorFlow alone",
        description="Write the run's model with its preprocessing inside, load it again in a fresh "
        "process, compare its predictions, and put a model card beside it.",
        usage="python -m app export RUN --format keras|savedmodel|tflite [--quantize float16|int8] "
        "[--output PATH]",
    )
    _add_run(parser)
    parser.add_argument("--format", required=True, metavar="keras|savedmodel|tflite", help="")
    parser.add_argument(
        "--quantize", metavar="float16|int8", help="tflite: smaller weights, and what they cost"
    )
    _add_output(parser, "PATH", "where to write (default RUN/export/NAME)")
    return parser


def _export(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    _alone("export")
    from app.commands.export_model import export

    export(options.run_dir, options.format, options.output, options.quantize)


def _add_compare(commands: Any) -> Any:
    parser = _command(
        commands,
        _compare,
        ("runs", "output"),
        "compare",
        help="put runs side by side: config, metrics, speed",
        usage="python -m app compare RUN RUN ... [--output DIR]",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs")
    _add_output(parser, "DIR", "also write it there as Markdown and CSV, and draw the curves")
    return parser


def _compare(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    _alone("compare")
    from app.commands.compare import compare

    compare(options.runs, options.output)


def _add_recipe(parser: Any) -> None:
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file of these keys")


def _add_run(parser: Any) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the directory of a run")


def _add_output(parser: Any, metavar: str, text: str) -> None:
    parser.add_argument("--output", type=Path, metavar=metavar, help=text)


def _add_json(parser: Any, what: str) -> None:
    text = f"one JSON object on standard output, {what}; all else goes to standard error"
    parser.add_argument("--json", action="store_true", help=text)


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"'{given}' is no whole number above 0")
    return int(given)


def _alone(command: str) -> None:
    """Before a command of one process."""
    if read_launcher().size > 1:
        raise UserError(f"{command} is for one process: start it without a launcher", shared=True)
    _start()


def _output(options: argparse.Namespace, quiet: bool = False) -> Any:
    """The block of a command that may be asked for --json: it adds its result to the list."""
    _start(quiet)
    return only_json(read_launcher().rank) if options.json else contextlib.nullcontext([])


def _start(quiet: bool = False) -> None:
    """Before TensorFlow is imported. Its notes are not the user's; its errors still come through
    Python."""
    logs.start(read_launcher().rank, quiet)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
