"""What a DistributedOptimizer is told about its reducer and its strategy, and Horovod about itself.
Loads no TensorFlow."""

import dataclasses
from pathlib import Path
from typing import Any

CYCLE_TIME_MS = 1.0  # Horovod's own default


@dataclasses.dataclass(frozen=True)
class Wire:
    """How gradients travel, for the compressions that have a choice.

    seed: of random rounding.
    from_epoch: "topk" and "powersgd" send everything before this epoch (may be a fraction).
    topk_ratio: the share of elements that "topk" sends, in (0, 1].
    powersgd_rank: the rank of the matrices of "powersgd".
    momentum: of "topk", in the place of the optimizer's own (Lin et al. 2018, arXiv:1712.01887).
    clip_norm: "topk" clips each rank's gradient so that the sum has about this norm at most.

    Raises ValueError for a value that is not valid.
    """

    seed: int = 0
    from_epoch: float = 0.0
    topk_ratio: float = 0.01
    powersgd_rank: int = 4
    momentum: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _check(self, "from_epoch", self.from_epoch >= 0, "at least 0")
        _check(self, "topk_ratio", 0 < self.topk_ratio <= 1, "above 0 and at most 1")
        _check(self, "powersgd_rank", self.powersgd_rank >= 1, "at least 1")
        _check(self, "momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        _check(self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class Sync:
    """When ranks exchange, for the strategies that have a choice.

    every_steps: optimizer steps of a round ("local", "delayed", "hierarchical"). 0: a round ends
        only where `settle()` is called.
    from_epoch: "local" exchanges at every step before this epoch (may be a fraction).
    outer_learning_rate, outer_momentum: of the step that "local" makes of each round, with
        Nesterov's momentum; 1 and 0 are plain averaging.

    Raises ValueError for a value that is not valid.
    """

    every_steps: int = 1
    from_epoch: float = 0.0
    outer_learning_rate: float = 1.0
    outer_momentum: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "every_steps", self.every_steps >= 0, "at least 0")
        _check(self, "from_epoch", self.from_epoch >= 0, "at least 0")
        _check(self, "outer_learning_rate", self.outer_learning_rate > 0, "above 0")
        _check(self, "outer_momentum", 0 <= self.outer_momentum < 1, "at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Knobs:
    """What Horovod is told about itself before it starts. The user's own environment variables,
    such as HOROVOD_CYCLE_TIME, come first.

    cycle_time_ms: between two looks at which tensors are ready.
    fusion_mb: tensors that are ready together travel as one, up to so many megabytes (10^6 bytes).
        Above 0, repeated runs may differ in their last bits: the place of a number in a fused
        tensor decides the order in which ranks are added. Our buckets are fused gradients already.
    nccl_streams: of each GPU.
    autotune_log: has Horovod try out values of both of the above, in the place of those given, and
        write what it tried into this file (rank 0).

    Raises ValueError for a value that is not valid.
    """

    cycle_time_ms: float = CYCLE_TIME_MS
    fusion_mb: float = 0.0
    nccl_streams: int = 1
    autotune_log: Path | None = None

    def __post_init__(self) -> None:
        _check(self, "cycle_time_ms", self.cycle_time_ms > 0, "above 0")
        _check(self, "fusion_mb", self.fusion_mb >= 0, "at least 0")
        _check(self, "nccl_streams", self.nccl_streams >= 1, "at least 1")

    def variables(self) -> dict[str, str]:
        """The environment variables that say so."""
        of_all = {"HOROVOD_NUM_NCCL_STREAMS": str(self.nccl_streams)}
        if self.autotune_log is not None:  # Horovod does not tune what it is told
            log = str(self.autotune_log)
            return of_all | {"HOROVOD_AUTOTUNE": "1", "HOROVOD_AUTOTUNE_LOG": log}
        of_all["HOROVOD_FUSION_THRESHOLD"] = str(int(self.fusion_mb * 1_000_000))
        if self.cycle_time_ms != CYCLE_TIME_MS:  # see `World.may_change`
            of_all["HOROVOD_CYCLE_TIME"] = str(self.cycle_time_ms)
        return of_all


def _check(options: Any, name: str, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{name}={getattr(options, name)!r}: expected {expected}")
