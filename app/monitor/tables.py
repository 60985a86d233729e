"""What a run says to people before it trains and after: names and values for `Show.table`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.build import parameters
from app.config import Config, Distribution
from app.data.heads import labelled
from app.distributed import devices
from app.distributed.world import World
from app.evaluation.report import hardest, share
from app.load import LoadedData
from app.monitor.goodput import GoodputSummary
from app.monitor.stragglers import described
from app.rundir.files import RunFiles
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
    if len(data.dataset.heads) == 1:
        sizes += f", {len(data.dataset.class_names)} classes"
    return {
        "data": f"{data.dataset.name}: {sizes}",
        **_labels(data, state),
        **({"read as": "; ".join(data.dataset.notes)} if data.dataset.notes else {}),
        **data.notes,
        "model": f"{config.model.model}, {parameters(state.model):,} parameters to learn",
        **_fine_tuning(config, schedule),
        "world": f"{world.described}, {world.backend}, {devices.describe()} each",
        "batch": f"{batch} examples per step over all ranks",
        "optimizer": f"{optimizer.optimizer}, peak learning rate {schedule.peak:g}, "
        f"{optimizer.schedule}",
        **_ema(training.ema_examples),
        "exchange": f"{wire.aggregation}, compression {wire.compression}{_when(wire)}",
        "epochs": f"{training.epochs}{_already(state)}",
        "run": str(config.run.run_dir),
        **notes,
    }


def _ema(examples: int | None) -> dict[str, str]:
    if examples is None:
        return {}
    return {"ema": f"the weights are averaged over about {examples:,} examples"}


def _labels(data: LoadedData, state: TrainState) -> dict[str, str]:
    """What there is to learn, where there are several labels."""
    heads, train, found = data.dataset.heads, data.splits["train"], []
    if len(heads) == 1:
        return {}
    for head, task, known in zip(
        heads, state.model.objective.tasks, labelled(train.labels), strict=True
    ):
        facts = [f"{len(head.class_names)} classes"]
        if task.weight != 1:
            facts.append(f"weight {task.weight:g}")
        if known < len(train):
            facts.append(f"known for {known:,} of {len(train):,} in train")
        found.append(f"{head.name} ({', '.join(facts)})")
    return {"labels": ", ".join(found)}


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
    goodput, stragglers = metrics["goodput"], metrics["stragglers"]
    accuracy = f"{metrics['test_accuracy']:.2%} of {metrics['test_examples']:,}"
    hardest_classes = hardest(metrics["test_recall"])
    if heads := metrics.get("test_heads"):
        accuracy = ", ".join(
            f"{name} {share(one['accuracy'])} of {one['examples']:,}" for name, one in heads.items()
        )
        hardest_classes = "; ".join(
            f"{name}: {hardest(one['recall'])}" for name, one in heads.items()
        )
    return {
        "test accuracy": f"{accuracy}, loss {metrics['test_loss']:.4f}",
        **_of_average(metrics),
        **_early_stopping(metrics),
        "hardest": hardest_classes,
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


def _of_average(metrics: dict[str, Any]) -> dict[str, str]:
    """How the moving average of the weights did, if there is one."""
    if "test_ema_accuracy" not in metrics:
        return {}
    accuracy, loss = metrics["test_ema_accuracy"], metrics["test_ema_loss"]
    used = "what evaluate, predict and export use"
    return {"with ema": f"{accuracy:.2%}, loss {loss:.4f}; {used}"}


def _early_stopping(metrics: dict[str, Any]) -> dict[str, str]:
    """The best validation, where a run looks for it, and whether it ended the run."""
    if "early_stopping" not in metrics:
        return {}
    seen = metrics["early_stopping"]
    after = f"after epoch {metrics['epoch']}" if seen["ended_the_run"] else "not needed"
    best = f"the best validation {seen['watches']} was {seen['best']:.4f}"
    return {"early stop": f"{after}; {best}, in epoch {seen['best_epoch']}"}


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
