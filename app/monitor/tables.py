"""What a run says to people before it trains and after: names and values for `Show.table`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.build import parameters
from app.config import Config, Distribution
from app.distributed import devices
from app.distributed.world import World
from app.evaluation.report import HARDEST
from app.load import LoadedData
from app.monitor.goodput import GoodputSummary
from app.monitor.stragglers import described
from app.run_files import RunFiles
from app.schedule import Schedule
from app.state import TrainState


def plan_of_run(
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
        "model": f"{config.model.model}, {parameters(state.model):,} parameters to learn",
        **_fine_tuning(config, schedule),
        "world": f"{world.size} rank(s), {world.backend}, {devices.describe()} each",
        "batch": f"{batch} examples per step over all ranks",
        "optimizer": f"{optimizer.optimizer}, peak learning rate {schedule.peak:g}, "
        f"{optimizer.schedule}",
        "exchange": f"{wire.aggregation}, compression {wire.compression}{_when(wire)}",
        "epochs": f"{training.epochs}{_already(state)}",
        "run": str(config.run.run_dir),
        **notes,
    }


def _fine_tuning(config: Config, schedule: Schedule) -> dict[str, str]:
    """How the encoder learns, where it learns otherwise than the head."""
    wanted, found = config.fine_tuning, []
    if wanted.encoder_learning_rate or wanted.layer_decay < 1:
        rate = wanted.encoder_learning_rate or config.optimizer.learning_rate
        peak = schedule.peak * rate / config.optimizer.learning_rate
        found.append(f"peak learning rate {peak:g}, times {wanted.layer_decay:g} per stage")
    if wanted.freeze != "none":
        until = f" until epoch {wanted.unfreeze_epoch}" if wanted.unfreeze_epoch else ""
        what = "all of it" if wanted.freeze == "encoder" else "embeddings"
        found.append(f"{what} frozen{until}")
    return {"encoder": "; ".join(found)} if found else {}


def _when(wire: Distribution) -> str:
    """When ranks exchange, if it is not at every step."""
    if wire.sync == "every_step":
        return ""
    if wire.local_epochs:
        return f", sync {wire.sync} after {wire.local_epochs} passes over each shard"
    return f", sync {wire.sync}" + (
        f" every {wire.sync_every_steps} steps" if wire.sync_every_steps else ""
    )


def _already(state: TrainState) -> str:
    """How much of the training was done before."""
    if not state.step:
        return ""
    inside = f" and {state.examples_seen:,} examples" if state.examples_seen else ""
    return f", from {state.epoch}{inside}"


def result_of_run(metrics: dict[str, Any], directory: Path, checkpoint: str) -> dict[str, str]:
    """How the run ended, for people."""
    recall = {name: share for name, share in metrics["test_recall"].items() if share is not None}
    goodput, stragglers = metrics["goodput"], metrics["stragglers"]
    hardest = sorted(recall, key=recall.__getitem__)[:HARDEST]
    return {
        "test accuracy": f"{metrics['test_accuracy']:.2%} of {metrics['test_examples']:,}, "
        f"loss {metrics['test_loss']:.4f}",
        "hardest": ", ".join(f"{name} {recall[name]:.0%}" for name in hardest),
        "examples/s": f"{metrics['examples_per_second']:,.0f}",
        "input": f"{metrics['input_wait_share']:.1%} of the time waited for, "
        f"{metrics['input_wait_share_slowest']:.1%} on the slowest rank",
        "time": f"{metrics['seconds']:.1f} s",
        "goodput": str(GoodputSummary(goodput["seconds"], goodput["restarts"])),
        **({"stragglers": described(stragglers)} if stragglers else {}),
        **_of_workers(metrics.get("parameter_servers")),
        "checkpoint": checkpoint,
        **_left_behind(directory),
        "TensorBoard": f"tensorboard --logdir {shlex.quote(str(RunFiles(directory).tensorboard))}",
    }


def _of_workers(found: Mapping[str, Any] | None) -> dict[str, str]:
    """What became of the batches that a coordinator has dealt to its workers, if there was one."""
    if found is None:
        return {}
    batches = ", ".join(f"worker {i} {number:,}" for i, number in enumerate(found["batches"]))
    again = f"; {found['dealt_again']} dealt again" if found["dealt_again"] else ""
    stale = f"{found['staleness_mean']:.1f} updates on average, {found['staleness_max']} at most"
    return {"batches": f"{batches}{again}", "staleness": stale}


def _left_behind(directory: Path) -> dict[str, str]:
    """What there is to look at, besides TensorBoard."""
    files = RunFiles(directory)
    places = {"logs": files.logs, "timeline": files.timeline}
    return {name: str(path) for name, path in places.items() if path.exists()}
