"""Horovod's published efficiency beside what the model of costs says of the same cluster.

Sergeev and Del Balso (2018, arXiv:1802.05799) and Horovod's documentation: 128 servers with 4
Pascal GPUs each, joined by 25 Gbit/s; an earlier README: 79% for VGG-16 on 32 such servers.

What was assumed, since it was not published: images/s of one GPU are those of a Tesla P100 with 64
images (TensorFlow's benchmarks of May 2017, synthetic data; for ResNet-101, which is not among
them, a line through ResNet-50 and ResNet-152 over the 3.8, 7.6 and 11.3 GFLOPs of He et al. 2015,
arXiv:1512.03385); the link gives its full 25 Gbit/s with 5 us a message (RoCE), GPUs of a server
exchange at 10 GB/s (PCIe) with 5 us, and add up as fast as their memory allows (732 GB/s, 3 bytes
moved for each byte added); gradients are float32, in Horovod's fused buffers of 64 MB, summed by a
ring. How much of an exchange hides behind the backward pass was not published either, so both ends
are shown: nothing of it, and two thirds of the step (the backward pass takes twice the forward).

The time of a message and of additions were chosen after 20 us and 10 GB/s had given 41 to 57% for
VGG-16 on 512 GPUs, below the published 68%. So this shows that the model can agree, not that it
predicts.
"""

import math
from typing import NamedTuple

from app.advice.model import STEP_SECONDS, Cluster, Line, Step
from app.advice.units import ms_text

IMAGES = 64
RESNET_50, RESNET_152 = 1 / 219, 1 / 91.8  # seconds per image
RESNET_101 = RESNET_50 + (7.6 - 3.8) / (11.3 - 3.8) * (RESNET_152 - RESNET_50)
LINK = Line(5e-6, 8 / 25e9)
PCIE = Line(5e-6, 1 / 10e9)
REDUCE_S_PER_BYTE = 3 / 732e9
FUSED_BYTES = 64 * 2**20
BACKWARD = 2 / 3


class Case(NamedTuple):
    """A published efficiency; parameters of the model, seconds per image of one GPU."""

    name: str
    parameters: float
    s_per_image: float
    gpus: int
    published: float


CASES = (
    Case("Inception V3", 23.8e6, 1 / 142, 512, 0.90),
    Case("ResNet-101", 44.5e6, RESNET_101, 512, 0.90),
    Case("VGG-16", 138.4e6, 1 / 154, 512, 0.68),
    Case("VGG-16", 138.4e6, 1 / 154, 128, 0.79),
)


class Bracket(NamedTuple):
    """Predicted efficiency, if nothing of the exchange overlaps and if it overlaps the whole
    backward pass; seconds of computing and of exchanging."""

    without: float
    overlapped: float
    compute_s: float
    exchange_s: float


def predict(case: Case) -> Bracket:
    """What the model of costs says."""
    cluster = Cluster(case.gpus, LINK, PCIE, 4, "ring", REDUCE_S_PER_BYTE)
    total = 4 * case.parameters
    buffers = math.ceil(total / FUSED_BYTES)
    exchange = buffers * cluster.seconds("allreduce", total / buffers)
    compute = IMAGES * case.s_per_image
    low, high = (
        compute / STEP_SECONDS["every_step"](Step(compute, 0.0, exchange, 1, overlap))
        for overlap in (0.0, BACKWARD)
    )
    return Bracket(low, high, compute, exchange)


def table() -> list[list[str]]:
    """Rows for people."""
    rows = [
        [
            "model",
            "GPUs",
            "parameters",
            "compute ms",
            "exchange ms",
            "predicted, no overlap",
            "predicted, full overlap",
            "published",
        ]
    ]
    for case in CASES:
        found = predict(case)
        rows.append(
            [
                case.name,
                str(case.gpus),
                f"{case.parameters / 1e6:.1f}M",
                ms_text(found.compute_s),
                ms_text(found.exchange_s),
                f"{found.without:.0%}",
                f"{found.overlapped:.0%}",
                f"{case.published:.0%}",
            ]
        )
    return rows
