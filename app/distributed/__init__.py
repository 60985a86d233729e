"""Everything that knows about workers. Nothing else in the project imports Horovod.

Imported lazily, because the command line reads `launcher` before TensorFlow is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.distributed.batch_norm import synchronised
    from app.distributed.callbacks import CommitPoints
    from app.distributed.horovod_world import connect
    from app.distributed.optimizer import DistributedOptimizer
    from app.distributed.world import World

_HOMES = {
    "CommitPoints": "callbacks",
    "DistributedOptimizer": "optimizer",
    "World": "world",
    "connect": "horovod_world",
    "synchronised": "batch_norm",
}
__all__ = [
    "CommitPoints",
    "DistributedOptimizer",
    "World",
    "connect",
    "synchronised",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
