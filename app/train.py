"""The story of a training run, top to bottom."""

import contextlib
import functools
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from app.begin import initial_state, open_run, resolve
from app.build import (
    build_schedule,
)
from app.checkpoints import mirror
from app.checkpoints.keeper import Keeper
from app.config import Config
from app.distributed import devices
from app.distributed.options import Knobs
from app.distributed.world import World
from app.elastic.door import DOOR
from app.errors import UserError
from app.evaluation.evaluate import describe, evaluate, evaluate_average
from app.evaluation.report import by_label
from app.evaluation.results import Results
from app.lead import Lead
from app.load import LoadedData, load_data
from app.loop import Loop
from app.monitor.options import Monitoring
from app.monitor.profiler import Profiler
from app.monitor.progress import Show
from app.monitor.rank_log import keep_logs
from app.monitor.tables import plan_of_run, result_of_run
from app.parameter_servers import coordinator as parameter_servers
from app.parameter_servers.loop import DealtLoop
from app.preflight import with_fitting_batch
from app.pulse import PULSE
from app.rundir import contents
from app.rundir.files import RunFiles
from app.rundir.lock import RunLock
from app.state import TrainState
from app.stop import STOP, Interrupted, Stopped
from app.version import code_version

MOST_MISTAKES = 16  # shown in TensorBoard
MOST_WAIT_S = 15.0  # for the newest checkpoint of a run that has failed or was asked to stop


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

    Raises UserError for what the user can fix, ReplicasDiverged if the ranks drift apart, Stopped
    if the run was asked to stop (SIGTERM, SIGINT).
    """
    with STOP.listening():
        return _run(config, resume, monitoring or Monitoring(), callbacks, world)


def _run(
    config: Config,
    resume: bool,
    monitoring: Monitoring,
    callbacks: Sequence[keras.callbacks.Callback],
    world: World | None,
) -> dict[str, Any]:
    """`train`, once this process listens to signals."""
    began = time.monotonic()
    wire = config.distribution
    PULSE.limits(wire.step_timeout_s, wire.phase_timeout_s)
    world = (
        world
        or parameter_servers.connect(config)
        or devices.connect_configured(
            monitoring.timeline,
            stall_timeout_s=wire.phase_timeout_s + wire.step_timeout_s,
            knobs=Knobs(wire.cycle_time_ms, wire.fusion_mb, wire.nccl_streams, wire.autotune_log),
            by_host=wire.sync == "hierarchical",
        )
    )
    STOP.speaks = world.is_chief and not DOOR.joins
    PULSE.enter("preparation")
    if monitoring.profile:
        monitoring.profile.check(world.size)
    world.verify_same(config.facts() | code_version())
    directory = world.from_chief(lambda: config.run.run_dir or contents.default_directory(config))
    lock = RunLock(directory)
    if not DOOR.joins:
        # Those that the supervisor has started again take over from ranks that it has ended.
        world.from_chief(lambda: lock.acquire(from_the_dead=DOOR.run is not None))
    try:
        config = config.in_directory(directory)
        return _train(config, resume, monitoring, callbacks, world, lock, began)
    finally:
        lock.release()


def _train(
    config: Config,
    resume: bool,
    monitoring: Monitoring,
    callbacks: Sequence[keras.callbacks.Callback],
    world: World,
    lock: RunLock,
    began: float,
) -> dict[str, Any]:
    """`train` in the directory of the run, which is this process's alone."""
    directory = config.run.run_dir or Path()
    config, goes_on, notes = resolve(config, resume, world)
    follows = goes_on or DOOR.joins
    plan = world.from_chief(lambda: contents.saved_plan(directory)) if follows else None
    data = load_data(config, world, plan)
    given, config = config, with_fitting_batch(config, len(data.splits["train"]), world.size)
    if config is not given:
        few = f"the default of {given.training.examples_per_rank} is too many for the data"
        notes["batch size"] = f"{config.training.examples_per_rank} per rank, since {few}"
    schedule = build_schedule(config, world.size)
    state = initial_state(config, data, schedule, world)
    if DOOR.run is None:
        mirror.clear(directory)  # of a run that was killed with its supervisor
    aside = mirror.mirror_of(directory) if DOOR.is_open else None
    keeper = Keeper(RunFiles(directory).checkpoints, config.run, aside)
    if not DOOR.joins:
        notes |= open_run(given, data, state, goes_on, keeper, world)
        keep_logs(directory, world)
    lead = Lead(config, data, state, world, keeper, lock, monitoring, DOOR.joins)
    kind = DealtLoop if isinstance(world, parameter_servers.Coordinator) else Loop
    loop = kind(
        given,  # which fits its batches to each world
        world,
        state,
        schedule,
        data.splits,
        lead.shows,
        lead.keeper if lead.leads else None,
        [*_profilers(config, monitoring, state, world), *callbacks],
        STOP,
        lead.goodput,
        lead.land,
    )
    lead.terminal.table(
        "Lockstep trains", plan_of_run(config, data, state, schedule, notes | loop.notes(), world)
    )
    if DOOR.joins:
        loop.join()
    timeline = world.timeline(RunFiles(directory).timeline) if monitoring.timeline else None
    with timeline or contextlib.nullcontext():
        metrics = _learn(loop, data, lead)
    metrics["seconds"] = time.monotonic() - began
    newest, problem = world.from_chief(lambda: _finish(loop, lead, metrics))
    loop.commits.show_written()
    lead.board.counted(state.step, loop.goodput.summary())
    lead.board.ended(state.step)
    lead.terminal.table("Result", result_of_run(metrics, directory, newest))
    if problem is not None:
        raise UserError(problem, shared=True)
    return {**metrics, "run_dir": str(directory), "checkpoint": newest}


def _learn(loop: Loop, data: LoadedData, lead: Lead) -> dict[str, Any]:
    """Train to the end and evaluate; returns the results. However it ends, the newest checkpoint
    gets some time to reach the disk."""
    state = loop.state
    lead.terminal.began(state.step, loop.total_steps)
    try:
        loop.run()
        if loop.commits.was_asked:
            with STOP.deferred():
                _stop(loop, lead.keeper)
        return _conclude(loop, data, lead.board)
    except BaseException as raised:
        error = STOP.interrupted or raised
        if isinstance(error, Stopped):
            lead.board.stopping(state.step, str(error))
        lead.board.ended(state.step, None if isinstance(error, Stopped) else error)
        with contextlib.suppress(UserError):  # the first error counts
            lead.keeper.wait(MOST_WAIT_S)
        if isinstance(error, Interrupted) and (kept := lead.keeper.checkpoints.list()):
            kept_at = f"{error}, with {kept[-1].name} kept"
            raise Stopped(f"{kept_at}: {_how_to_go_on(loop.config)}") from None
        raise
    finally:
        lead.terminal.ended(state.step)


def _stop(loop: Loop, keeper: Keeper) -> None:
    """End a run that was asked to stop, all ranks together; raises Stopped."""
    PULSE.enter("end")
    loop.world.from_chief(functools.partial(keeper.wait, MOST_WAIT_S))
    mirror.clear(keeper.checkpoints.directory.parent)
    loop.commits.show_written()
    state, name = loop.state, STOP.signal.name if STOP.signal else "a signal to another rank"
    raise Stopped(
        f"stopped by {name} at step {state.step}, with {state.epoch} of "
        f"{loop.config.training.epochs} epochs done: {_how_to_go_on(loop.config)}"
    )


def _how_to_go_on(config: Config) -> str:
    directory = shlex.quote(str(config.run.run_dir))
    return f"the same command with --run-dir {directory} --resume goes on from there"


def _finish(loop: Loop, lead: Lead, metrics: dict[str, Any]) -> tuple[str, str | None]:
    """(the newest checkpoint, why not everything could be written, if so); on the chief."""
    problem = None
    try:
        lead.keeper.wait()
        loop.goodput.finished(loop.state.step)
        contents.write_metrics(lead.files.directory, metrics)
        mirror.clear(lead.files.directory)
    except UserError as error:
        problem = str(error)
    return str(next(reversed(lead.keeper.checkpoints.list()), "none")), problem


def _conclude(loop: Loop, data: LoadedData, board: Show) -> dict[str, Any]:
    """Evaluate the trained model, show the results and return them; a collective."""
    world, state = loop.world, loop.state
    PULSE.enter("test")
    waited = world.gather(loop.clock.waited_share)
    results = evaluate(loop.classifier, data.splits["test"], world, MOST_MISTAKES)
    board.evaluated("test", loop.place, results)
    world.from_chief(lambda: _show_report(data, results, board, state.step))
    also: dict[str, Any] = {}
    if averaged := evaluate_average(loop.classifier, data.splits["test"], world):
        board.averaged("test", loop.place, averaged)
        also |= {"test_ema_accuracy": averaged.accuracy, "test_ema_loss": averaged.loss}
    if stopping := loop.classifier.early_stopping:
        also["early_stopping"] = stopping.to_json()
    PULSE.enter("end")
    return {
        **results.of_test(data.dataset.heads),
        "examples_per_second": loop.clock.since().examples_per_second,
        "input_wait_share": sum(waited) / len(waited),
        "input_wait_share_slowest": max(waited),
        "goodput": loop.goodput.summary().to_json(),
        "stragglers": loop.stragglers,
        "bad_examples": len(data.bad),
        "world_size": world.size,
        "seed": state.seed,
        "step": state.step,
        "epoch": state.epoch,
        "examples_trained_on": loop.place.examples,
        **also,
        **loop.results(),
    }


def _profilers(
    config: Config, monitoring: Monitoring, state: TrainState, world: World
) -> list[Profiler]:
    if monitoring.profile is None:
        return []
    directory = RunFiles(config.run.run_dir or Path()).tensorboard
    passes = config.training.backward_passes_per_step
    return [Profiler(monitoring.profile, directory, state, passes, world.rank)]


def _show_report(data: LoadedData, results: Results, board: Show, step: int) -> None:
    """Show what the test says about classes and mistakes; on the chief."""
    texts, source = data.dataset.kind == "text", data.dataset.splits["test"]
    described = by_label(describe(results, data.dataset.heads, source, texts))
    for (head, result), scores in zip(described.items(), results.heads.values(), strict=True):
        rows = np.array([mistake.index for mistake in scores.mistakes], np.int64)
        images = None if texts or not len(rows) else data.splits["test"].inputs(rows, 0).numpy()
        board.reported("test", step, result, scores, images, head)
