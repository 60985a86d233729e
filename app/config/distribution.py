"""[distribution]: how ranks exchange what they learn, and prove that they agree."""

from typing import Annotated, Literal

from pydantic import Field

from app.config.section import Section
from app.config.values import Positive
from app.distributed.reducers import COMPRESSIONS


class Distribution(Section):
    """[distribution]: how ranks exchange gradients and prove that they agree."""

    compression: Literal[tuple(COMPRESSIONS)] = Field(  # type: ignore[valid-type]
        "none", description="of gradients on the wire"
    )
    aggregation: Literal["weighted", "average"] = Field(
        "weighted", description="weigh ranks by their examples, or all equally"
    )
    sparse_as_dense: bool = Field(
        True, description="exchange gradients of embeddings as dense tensors, or gather their rows"
    )
    bucket_mb: Annotated[float, Field(gt=0)] = Field(
        25.0, description="exchange gradients in buckets of this many megabytes"
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
    step_timeout_s: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="seconds without progress, in a step or at a commit point, after which a "
        "rank counts as stuck",
    )
    phase_timeout_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="the same in preparation, first trace, validation and test"
    )
