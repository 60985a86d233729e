"""When ranks communicate: one strategy per optimizer decides what becomes of each gradient.

A new one is a file here and a line in `STRATEGIES`. Its class provides what `strategy.Strategy`
describes:

- `__init__(parts, sync)`: the optimizer inside, the reducer, the ranks (strategy.py); its options
  (app/distributed/options.py);
- `parts`: those given, or with a reducer of its own around the one given;
- `is_equal_after_steps`: whether all ranks hold the same variables after each step;
- `build(variables, add_variable)`: makes what it keeps from step to step. `add_variable` is that
  of Keras optimizers, with the kind of state besides: `add_variable(shape, name=..., kind=...)`,
  such as `Kind.LOCAL` for what is empty at a commit point;
- `apply(gradients, variables, weight, total)`: one pass, in the graph of a step. `parts.mean`
  exchanges gradients, `parts.update` lets the optimizer inside step;
- `are_equal()`: whether all ranks hold the same variables after this step, in its graph;
- `settle()`: a collective outside graphs that leaves nothing pending, so that all ranks have one
  state: exchanges in flight are finished, models that differ are averaged.

Accumulating passes goes with each of them: `Accumulate` hands every k-th pass on to another.

Imports no TensorFlow, so that the command line can read the names.
"""

import importlib
from typing import TYPE_CHECKING

from app.distributed.options import Sync

if TYPE_CHECKING:
    from app.distributed.strategies.strategy import Parts, Strategy

# Where each class is, as "file.Class" of this folder.
STRATEGIES = {
    "every_step": "every_step.EveryStep",
    "overlapped": "overlapped.Overlapped",
    "local": "local.Local",
    "delayed": "delayed.Delayed",
    "hierarchical": "hierarchical.Hierarchical",
}
# Those that keep gradients from step to step, in variables, and so need dense ones.
KEEP_GRADIENTS = ("overlapped",)
# Those whose exchanges come in rounds of `Sync.every_steps` steps.
WITH_ROUNDS = ("local", "delayed", "hierarchical")


def make_strategy(name: str, parts: "Parts", sync: Sync | None = None) -> "Strategy":
    """The strategy of this name. Raises ValueError for an unknown one."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r}: expected one of {list(STRATEGIES)}")
    file, class_name = STRATEGIES[name].split(".")
    return getattr(importlib.import_module(f"{__name__}.{file}"), class_name)(parts, sync or Sync())
