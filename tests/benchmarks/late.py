"""What late gradients cost by themselves: one process, in which each gradient is applied a step
after it was made.

    python -m tests.benchmarks.late [--dataset cifar10] [--seeds 1] [--data-dir DIR] [KEY=VALUE ...]

What parameter servers lose beyond that (`tests.benchmarks.asynchronous`) they would lose to updates
that come in between. One epoch, unless `epochs` says otherwise; real data: LOCKSTEP_TFDS_DIR, too.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

from app.distributed.world import World
from app.recipe import load
from app.train import train
from tests.benchmarks.convergence import CONFIGS


def late(kind: type[keras.optimizers.Optimizer]) -> Any:
    """The optimizer class `kind`, whose every step is made with the gradient of the one before."""

    class Late(kind):  # type: ignore[misc, valid-type]
        def build(self, variables: list[keras.Variable]) -> None:
            if not self.built:
                super().build(variables)
                self._waiting = self.add_optimizer_variables(variables, "waiting")

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            waiting = self._waiting[self._get_variable_index(variable)].value
            before = tf.identity(waiting)
            with tf.control_dependencies([before]):
                waiting.assign(tf.cast(gradient, waiting.dtype))
            super().update_step(before, variable, learning_rate)

    return Late


def trained(keys: dict[str, Any], is_late: bool) -> dict[str, Any]:
    """The metrics of a run."""
    rules = keras.optimizers
    sgd, adam = (late(rules.SGD), late(rules.Adam)) if is_late else (rules.SGD, rules.Adam)
    with (
        mock.patch.object(rules, "SGD", sgd),
        mock.patch.object(rules, "Adam", adam),
        tempfile.TemporaryDirectory() as folder,
    ):
        return train(load(None, keys | {"run_dir": str(Path(folder) / "run")}), world=World())


def main() -> None:
    """Train both ways with each seed, and print the accuracies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--dataset", choices=list(CONFIGS), default="cifar10")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data-dir", default=os.environ.get("LOCKSTEP_TFDS_DIR"))
    options = parser.parse_args()
    keys = CONFIGS[options.dataset] | {"epochs": "1", "warmup_epochs": "0.5"}
    keys |= {"data_dir": options.data_dir} if options.data_dir else {}
    keys |= dict(pair.split("=", 1) for pair in options.changes)
    if keys["optimizer"] not in ("sgd", "adam"):
        parser.error("optimizer: sgd or adam")
    for seed in range(options.seeds):
        for name, is_late in (("timely", False), ("late", True)):
            metrics = trained(keys | {"seed": str(seed)}, is_late)
            print(f"{name:7} seed {seed} {metrics['test_accuracy']:8.2%}, loss "
                  f"{metrics['test_loss']:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
