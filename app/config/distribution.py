"""[distribution]: how ranks exchange what they learn, and prove that they agree."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from app.config.section import Section
from app.config.values import Positive
from app.distributed.reducers import COMPRESSIONS
from app.distributed.strategies import STRATEGIES


class Distribution(Section):
    """[distribution]: how ranks exchange gradients and prove that they agree."""

    compression: Literal[tuple(COMPRESSIONS)] = Field(  # type: ignore[valid-type]
        "none",
        description="of gradients on the wire: 'fp16' halves the bytes, 'int8' sends a quarter "
        "(unbiased; up to 8 ranks), 'terngrad' 2 bits an element to every rank (less accurate; "
        "more bytes than int8 above 8 ranks), 'topk' topk_ratio of the elements (with sgd; less "
        "accurate with adam and lamb; not with lars), 'powersgd' two thin matrices for each matrix",
    )
    compress_from_epoch: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="compression 'topk' and 'powersgd': send everything before this epoch (may be "
        "a fraction); topk loses less accuracy with 1",
    )
    topk_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.01, description="compression 'topk': the share of elements that is sent"
    )
    powersgd_rank: Positive = Field(
        4, description="compression 'powersgd': the rank of what is sent of each matrix"
    )
    sync: Literal[tuple(STRATEGIES)] = Field(  # type: ignore[valid-type]
        "every_step",
        description="when ranks exchange: 'overlapped' applies each gradient a step late, while "
        "the next is computed (less accurate with sgd); 'local' averages models every "
        "sync_every_steps steps, 'delayed' the same while the next round goes on; 'hierarchical' "
        "adds up inside a host at every step, and goes between hosts in pieces",
    )
    sync_every_steps: Positive | None = Field(
        None,
        description="optimizer steps of a round: of sync 'local' and 'delayed', and of "
        "'hierarchical' if hosts are not to exchange at every step",
    )
    sync_from_epoch: Annotated[float, Field(ge=0)] = Field(
        0.0, description="sync 'local': exchange at every step before this epoch"
    )
    local_epochs: Positive | None = Field(
        None,
        description="sync 'local', in the place of sync_every_steps, with shard_by: federated "
        "averaging; an epoch is one round, in which each rank passes so often over its own shard",
    )
    outer_learning_rate: Annotated[float, Field(gt=0)] = Field(
        1.0, description="sync 'local': how far to go along the mean movement of a round"
    )
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="sync 'local': Nesterov's, over rounds (DiLoCo; experimental: it loses "
        "accuracy in runs of less than about 50 rounds)",
    )
    aggregation: Literal["weighted", "average"] = Field(
        "weighted", description="weigh ranks by their examples, or all equally"
    )
    sync_batch_norm: bool = Field(
        False,
        description="BatchNorm normalises with the examples of all ranks, as one worker would, and "
        "not with those of its own: two small exchanges for each layer and pass",
    )
    sparse_as_dense: bool = Field(
        True, description="exchange gradients of embeddings as dense tensors, or gather their rows"
    )
    bucket_mb: Annotated[float, Field(gt=0)] = Field(
        25.0, description="exchange gradients in buckets of this many megabytes"
    )
    cycle_time_ms: Annotated[float, Field(gt=0)] = Field(
        1.0, description="milliseconds between Horovod's looks at which tensors are ready"
    )
    fusion_mb: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="let Horovod join tensors that are ready together, up to so many megabytes; "
        "then repeated runs may differ in their last bits",
    )
    nccl_streams: Positive = Field(1, description="CUDA streams of Horovod's NCCL, per GPU")
    autotune_log: Path | None = Field(
        None,
        description="let Horovod try out cycle_time_ms and fusion_mb by itself, and write what it "
        "tried into this file",
    )
    shard_by: Literal["iid", "label", "dirichlet"] = Field(
        "iid",
        description="deal each batch evenly, or give each rank its own classes, or shares of each "
        "class drawn from Dirichlet(dirichlet_alpha), as in studies of federated learning",
    )
    dirichlet_alpha: Annotated[float, Field(gt=0)] = Field(
        0.5, description="shard_by 'dirichlet': the smaller, the more uneven"
    )
    guard_every_steps: Positive = Field(
        100, description="compare all replicated variables between ranks every so many steps"
    )
    on_drift: Literal["stop", "repair"] = Field(
        "stop",
        description="when ranks differ: end the run, or give all the variables of the majority "
        "(without one, as with 2 ranks, the run ends)",
    )
    max_staleness: Annotated[int, Field(ge=0)] = Field(
        16,
        description="parameter servers (launch/parameter_servers.sh): how many batches beyond one "
        "per worker are dealt after one that is not done; 0: nobody gets ahead",
    )
    step_timeout_s: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="seconds without progress, in a step or at a commit point, after which a "
        "rank counts as stuck",
    )
    phase_timeout_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="the same in preparation, first trace, validation and test"
    )
