"""How TensorBoard groups what a run writes: the layout of its custom scalars, and HParams."""

from collections.abc import Sequence
from typing import Any

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hp
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary

from app.config import Config, sections

# Regular expressions of tags; a chart shows all selected runs: train, validation and test.
CHARTS = {
    "Is it learning?": {
        "loss": "learning/loss",
        "accuracy": "learning/accuracy",
        "learning rate": "learning/learning_rate",
    },
    "Is it fast?": {
        "examples/s": "speed/examples_per_second",
        "where a step's time goes, mean of the ranks (s)": "speed/step_mean_s_.*",
        "where a step's time goes, slowest rank (s)": "speed/step_slowest_rank_s_.*",
        "work of the slowest rank / mean": "speed/rank_skew",
        "sent per step and rank (MB)": "speed/megabytes_sent_per_step",
        "checkpoint (s)": "speed/checkpoint_s",
        "goodput: share of the time in steps that counted": "speed/goodput",
        "where the rest of the time went (s)": "speed/lost_s_.*",
    },
    "Is it healthy?": {
        "gradient norm": "health/gradient_norm",
        "update / weights": "health/update_to_weight_ratio",
        "loss scale, skipped steps": "health/(loss_scale|skipped_steps)",
        "replicas compared and equal": "health/lockstep_checks_passed",
        "memory of the largest rank (GB)": "health/memory_gb",
        "error of compression": "health/compression_error",
        "events": "timeline/.*",
    },
}
LEARNING = next(iter(CHARTS))
OF_LABELS = {
    "loss of each label": "learning/.+_loss",
    "accuracy of each label": "learning/.+_accuracy",
}
# What HParams shows beside the config: (folder of the event files, tag, name).
METRICS = (
    ("test", "learning/accuracy", "test accuracy"),
    ("test", "learning/loss", "test loss"),
    ("validation", "learning/accuracy", "validation accuracy"),
    ("train", "learning/loss", "training loss"),
    ("train", "speed/examples_per_second", "examples/s"),
    ("train", "speed/goodput", "goodput"),
)
# The columns shown until the user chooses others: TensorBoard shows the first five.
FIRST = ("dataset", "learning_rate", "model", "optimizer", "world_size")
# Where and how often a run writes does not tell it from others.
NOT_COMPARED = ("run",)


def layout_summary(labels: Sequence[str] = ()) -> Any:
    """The layout of the custom scalars; `labels`: their names, if there are several."""
    shown = CHARTS | {LEARNING: CHARTS[LEARNING] | OF_LABELS} if labels else CHARTS
    categories = [
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(title=name, multiline={"tag": [f"^{tags}$"]})
                for name, tags in charts.items()
            ],
        )
        for title, charts in shown.items()
    ]
    return custom_scalar.pb(layout_pb2.Layout(category=categories))


def hparams_summaries(config: Config, world_size: int, labels: Sequence[str] = ()) -> list[Any]:
    """Makes a run a row of the HParams table, with its config in the columns; `labels`: their
    names, if there are several."""
    values: dict[str, Any] = {"world_size": world_size}
    for name in sections():
        if name not in NOT_COMPARED:
            table = getattr(config, name).model_dump(mode="json")
            values |= {key: _value(value) for key, value in table.items()}
    of_labels = [
        (split, f"learning/{label}_accuracy", f"{split} accuracy, {label}")
        for label in labels
        for split in ("test", "validation")
    ]
    metrics = [hp.Metric(tag, group, name) for group, tag, name in (*METRICS, *of_labels)]
    columns = [api_pb2.HParamInfo(name=key, differs=key in FIRST) for key in values]
    infos = [metric.as_proto() for metric in metrics]
    return [
        hparams_summary.experiment_pb(hparam_infos=columns, metric_infos=infos),
        hp.hparams_pb(values, trial_id=str(config.run.run_dir)),
    ]


def end_summary(succeeded: bool) -> Any:
    """Tells HParams how the run ended."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    return hparams_summary.session_end_pb(status)


def _value(value: Any) -> Any:
    """A value of a type that HParams knows."""
    return value if isinstance(value, bool | int | float | str) else str(value or "none")
