"""The story of a training run, top to bottom."""

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from app import rundir
from app.build import (
    build_classifier,
    build_optimizer,
    build_schedule,
    parameters,
)
from app.checkpoint import Checkpoints
from app.config import Config
from app.distributed import devices
from app.distributed.replicas import broadcast_state
from app.distributed.world import World
from app.evaluation.evaluate import describe_mistakes, evaluate
from app.evaluation.report import HARDEST
from app.evaluation.scores import Scores
from app.init_from import load_weights
from app.load import LoadedData, load_data
from app.loop import Loop
from app.monitor.options import Monitoring
from app.monitor.profiler import Profiler
from app.monitor.progress import Show
from app.monitor.rank_log import RankLog, keep_logs
from app.monitor.reports import place_of
from app.monitor.tensorboard import TensorBoard
from app.monitor.terminal import Terminal
from app.preflight import with_fitting_batch
from app.recipe import overlay
from app.run_files import RunFiles
from app.run_lock import RunLock
from app.schedule import Schedule
from app.state import TrainState
from app.version import code_version

MOST_MISTAKES = 16  # shown in TensorBoard


def train(
    config: Config,
    *,
    resume: bool = False,
    monitoring: Monitoring | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    world: World | None = None,
) -> dict[str, Any]:
    """Train, evaluate, keep; every rank calls it.

    `resume`: continue from the newest checkpoint in the run directory, with the config saved there;
    keys set in `config` override it.

    Returns the final metrics, the run directory and the newest checkpoint (on every rank).

    Raises UserError for what the user can fix, ReplicasDiverged if the ranks drift apart.
    """
    began = time.monotonic()
    monitoring = monitoring or Monitoring()
    world = world or devices.connect_configured(monitoring.timeline)
    if monitoring.profile:
        monitoring.profile.check(world.size)
    world.verify_same(config.facts() | code_version())
    directory = world.from_chief(lambda: config.run.run_dir or rundir.default_directory(config))
    lock = RunLock(directory)
    world.from_chief(lock.acquire)
    try:
        return _train(config.in_directory(directory), resume, monitoring, callbacks, world, began)
    finally:
        lock.release()


def _train(
    config: Config,
    resume: bool,
    monitoring: Monitoring,
    callbacks: Sequence[keras.callbacks.Callback],
    world: World,
    began: float,
) -> dict[str, Any]:
    """`train` in the directory of the run, which is this process's alone."""
    directory = config.run.run_dir or Path()
    config, goes_on, notes = _resolve(config, resume, world)
    plan = world.from_chief(lambda: rundir.saved_plan(directory)) if goes_on else None
    data = load_data(config, world, plan)
    given, config = config, with_fitting_batch(config, len(data.splits["train"]), world.size)
    if config is not given:
        few = f"the default of {given.training.examples_per_rank} is too many for the data"
        notes["batch size"] = f"{config.training.examples_per_rank} per rank, since {few}"
    schedule = build_schedule(config, world.size)
    state = _initial_state(config, data, schedule, world)
    checkpoints, begins = _open_run(given, data, state, goes_on, world)
    notes |= begins
    keep_logs(directory, world)

    def save() -> Path:
        return world.from_chief(lambda: checkpoints.save(state, {"world_size": world.size}))

    terminal = board = Show()
    if world.is_chief:
        terminal = Terminal(config.training.epochs, monitoring.quiet)
        board = _tensorboard(config, data, state, directory, world.size)
    shows = [terminal, board, RankLog(world)]
    callbacks = [*_profilers(config, monitoring, state, world), *callbacks]
    loop = Loop(config, world, state, schedule, data.splits, shows, save, callbacks)
    terminal.table("Lockstep trains", _plan(config, data, state, schedule, notes, world))
    terminal.began(state.step, loop.total_steps)
    timeline = world.timeline(RunFiles(directory).timeline) if monitoring.timeline else None
    try:
        with timeline or contextlib.nullcontext():
            loop.run()
    except Exception as error:
        board.ended(state.step, error)
        raise
    finally:
        terminal.ended(state.step)

    metrics = _conclude(loop, data, board)
    metrics["seconds"] = time.monotonic() - began
    world.from_chief(lambda: rundir.write_metrics(directory, metrics))
    newest = world.from_chief(lambda: str(checkpoints.list()[-1]))
    terminal.table("Result", _result(metrics, directory, newest))
    return {**metrics, "run_dir": str(directory), "checkpoint": newest}


def _resolve(config: Config, resume: bool, world: World) -> tuple[Config, bool, dict[str, str]]:
    """(the config of the run with what was given now, whether a checkpoint is there to go on from,
    what has changed, for people); a collective.

    Raises UserError if the directory holds another run.
    """
    directory = config.run.run_dir or Path()
    saved, goes_on = world.from_chief(lambda: _saved_run(config, resume))
    if saved is None:
        return config, False, {}
    config, changes = overlay(saved.in_directory(directory), config)
    if goes_on:
        with world.together():
            rundir.check_same_run(directory, saved, config)
    told = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changes.items())
    return config, goes_on, {"changed": told} if told else {}


def _tensorboard(
    config: Config, data: LoadedData, state: TrainState, directory: Path, world_size: int
) -> TensorBoard:
    place = place_of(state, len(data.splits["train"]))
    return TensorBoard(
        RunFiles(directory).tensorboard, config, data.plan.to_json(), world_size, place
    )


def _conclude(loop: Loop, data: LoadedData, board: Show) -> dict[str, Any]:
    """Evaluate the trained model, show the results and return them; a collective."""
    world, state = loop.world, loop.state
    waited = world.gather(loop.clock.waited_share)
    scores = evaluate(loop.classifier, data.splits["test"], world, MOST_MISTAKES)
    board.evaluated("test", loop.place, scores)
    world.from_chief(lambda: _show_report(data, scores, board, state.step))
    board.ended(state.step)
    return {
        "test_accuracy": scores.accuracy,
        "test_loss": scores.loss,
        "test_examples": scores.examples,
        "test_recall": dict(zip(data.dataset.class_names, scores.recall, strict=True)),
        "examples_per_second": loop.clock.since().examples_per_second,
        "input_wait_share": sum(waited) / len(waited),
        "input_wait_share_slowest": max(waited),
        "bad_examples": len(data.bad),
        "world_size": world.size,
        "seed": state.seed,
        "step": state.step,
        "epoch": state.epoch,
        "examples_trained_on": loop.place.examples,
    }


def _profilers(
    config: Config, monitoring: Monitoring, state: TrainState, world: World
) -> list[Profiler]:
    if monitoring.profile is None:
        return []
    directory = RunFiles(config.run.run_dir or Path()).tensorboard
    passes = config.training.backward_passes_per_step
    return [Profiler(monitoring.profile, directory, state, passes, world.rank)]


def _show_report(data: LoadedData, scores: Scores, board: Show, step: int) -> None:
    """Show what the test says about classes and mistakes; on the chief."""
    names, source = data.dataset.class_names, data.dataset.splits["test"]
    texts = data.dataset.kind == "text"
    rows = np.array([mistake.index for mistake in scores.mistakes], np.int64)
    result = scores.to_json(list(names))
    result["mistakes"] = describe_mistakes(scores, source, names, texts)
    images = None if texts or not len(rows) else data.splits["test"].inputs(rows, 0).numpy()
    board.reported("test", step, result, scores, images)


def _saved_run(config: Config, resume: bool) -> tuple[Config | None, bool]:
    """The config of the run in the directory, if there is one to resume; and whether it has a
    checkpoint to continue from, instead of starting over."""
    directory = config.run.run_dir or Path()
    saved = rundir.find_run(directory, resume)
    return saved, saved is not None and rundir.has_checkpoint(directory)


def _initial_state(
    config: Config, data: LoadedData, schedule: Schedule, world: World
) -> TrainState:
    """A built model and optimizer, from the seed; nothing is written yet."""
    classifier = build_classifier(config, data.plan, data.splits["train"].labels)
    optimizer = build_optimizer(config, schedule, world)
    classifier.compile(optimizer)
    optimizer.build(classifier.trainable_variables)
    return TrainState(classifier, optimizer, config.training.seed)


def _open_run(
    config: Config, data: LoadedData, state: TrainState, goes_on: bool, world: World
) -> tuple[Checkpoints, dict[str, str]]:
    """Bring every rank to the newest checkpoint or the start, then write what the run is. Also
    returns what it begins with, for people, if that is another run.

    The chief reads and writes files; if it fails, every rank does, and nothing was overwritten.
    """
    directory = config.run.run_dir or Path()
    checkpoints = Checkpoints(RunFiles(directory).checkpoints, config.run.keep_checkpoints)
    begins: dict[str, str] = {}
    if goes_on:
        world.from_chief(lambda: checkpoints.restore_latest(state))
    elif source := config.model.init_from:
        report = world.from_chief(lambda: load_weights(source, state.model, data.plan))
        begins["begins with"] = str(report)
    world.from_chief(lambda: rundir.keep_run(directory, config, data.plan, data.bad))
    state.move_to(world.broadcast(state.position))
    broadcast_state(world, state.model, state.optimizer, state.seed, state.step)
    return checkpoints, begins


def _plan(
    config: Config,
    data: LoadedData,
    state: TrainState,
    schedule: Schedule,
    notes: Mapping[str, str],
    world: World,
) -> dict[str, str]:
    """What will run, for people; `notes`: further facts."""
    training, optimizer, wire = config.training, config.optimizer, config.distribution
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    batch = training.examples_per_step(world.size)
    if data.bad:
        sizes += f", {len(data.bad)} bad left out (bad_examples.jsonl)"
    return {
        "data": f"{data.dataset.name}: {sizes}, {len(data.dataset.class_names)} classes",
        **({"read as": "; ".join(data.dataset.notes)} if data.dataset.notes else {}),
        **data.notes,
        "model": f"{config.model.model}, {parameters(state.model):,} parameters",
        "world": f"{world.size} rank(s), {world.backend}, {devices.describe()} each",
        "batch": f"{batch} examples per step over all ranks",
        "optimizer": f"{optimizer.optimizer}, peak learning rate {schedule.peak:g}, "
        f"{optimizer.schedule}",
        "exchange": f"{wire.aggregation}, compression {wire.compression}",
        "epochs": f"{training.epochs}{_already(state)}",
        "run": str(config.run.run_dir),
        **notes,
    }


def _already(state: TrainState) -> str:
    """How much of the training was done before."""
    if not state.step:
        return ""
    inside = f" and {state.examples_seen:,} examples" if state.examples_seen else ""
    return f", from {state.epoch}{inside}"


def _result(metrics: dict[str, Any], directory: Path, checkpoint: str) -> dict[str, str]:
    """How the run ended, for people."""
    recall = {name: share for name, share in metrics["test_recall"].items() if share is not None}
    hardest = sorted(recall, key=recall.__getitem__)[:HARDEST]
    return {
        "test accuracy": f"{metrics['test_accuracy']:.2%} of {metrics['test_examples']:,}, "
        f"loss {metrics['test_loss']:.4f}",
        "hardest": ", ".join(f"{name} {recall[name]:.0%}" for name in hardest),
        "examples/s": f"{metrics['examples_per_second']:,.0f}",
        "input": f"{metrics['input_wait_share']:.1%} of the time waited for, "
        f"{metrics['input_wait_share_slowest']:.1%} on the slowest rank",
        "time": f"{metrics['seconds']:.1f} s",
        "checkpoint": checkpoint,
        **_left_behind(directory),
        "TensorBoard": f"tensorboard --logdir {shlex.quote(str(RunFiles(directory).tensorboard))}",
    }


def _left_behind(directory: Path) -> dict[str, str]:
    """What there is to look at, besides TensorBoard."""
    files = RunFiles(directory)
    places = {"logs": files.logs, "timeline": files.timeline}
    return {name: str(path) for name, path in places.items() if path.exists()}
