"""Predictions for all ways to communicate, from costs that are written out."""

import dataclasses
import math
from typing import NamedTuple

import pytest
import tensorflow as tf

from app.advice.measure import KINDS
from app.advice.model import Cluster, Line, Measured
from app.advice.predict import Workload, predict, predict_all
from app.advice.show import matrix
from app.advice.trial import LIMITS, Mirror, codec_seconds, make_reducers, with_choice
from app.config import Config
from app.distributed.reducers import COMPRESSIONS
from app.distributed.strategies import STRATEGIES
from app.distributed.world import World

SHAPES = [(3, 3, 16, 32), (32,), (512, 64), (64,)]
PARAMETERS = 3 * 3 * 16 * 32 + 32 + 512 * 64 + 64


class Call(NamedTuple):
    kind: str
    bytes: int


class Whole:
    """Everything in one allreduce."""

    def collectives(self, shapes, ranks):
        return [Call("allreduce", 4 * sum(math.prod(shape) for shape in shapes))]


class Gathered:
    """A maximum, then a tenth by allgather."""

    def collectives(self, shapes, ranks):
        size = 4 * sum(math.prod(shape) for shape in shapes)
        return [Call("allmax", 8), Call("allgather", size // 10)]


WORK = Workload(
    SHAPES,
    0.010,
    {"none": Whole(), "int8": Gathered()},
    {"none": Line(0.0, 0.0), "int8": Line(0.001, 0.0005)},
    {"int8": 8},
)
NETWORK = Measured(4, {kind: Line(0.001, 1e-8) for kind in KINDS})


def test_an_exchange_is_the_sum_of_its_collectives() -> None:
    one = predict(WORK, NETWORK, "int8", "every_step")
    assert one.exchange_s == pytest.approx(0.002 + 1e-8 * (8 + 4 * PARAMETERS // 10))
    assert one.codec_s == pytest.approx(0.001 + 4 * 0.0005)
    assert one.step_s == pytest.approx(0.010 + one.codec_s + one.exchange_s)
    assert one.efficiency == pytest.approx(0.010 / one.step_s)
    assert one.sent_bytes == 8 + 4 * PARAMETERS // 10


def test_rounds_share_the_cost_of_an_exchange() -> None:
    each = predict(WORK, NETWORK, "none", "every_step")
    rare = predict(WORK, NETWORK, "none", "local", 8)
    assert rare.sent_bytes == each.sent_bytes / 8
    assert rare.step_s == pytest.approx(0.010 + each.exchange_s / 8)
    assert (each.label, rare.label) == ("none, every_step", "none, local every 8 steps")


def test_ranks_wait_for_the_slowest_when_they_exchange() -> None:
    uneven = dataclasses.replace(WORK, waits_s={1: 0.004, 8: 0.001})
    for sync, steps, waits in (("every_step", 1, 0.004), ("local", 8, 0.001)):
        one, before = (predict(work, NETWORK, "none", sync, steps) for work in (uneven, WORK))
        assert one.step_s == pytest.approx(before.step_s + waits)
        assert one.compute_s == before.compute_s and one.efficiency < before.efficiency


def test_a_core_that_exchanges_does_not_compute() -> None:
    busy = {kind: Line(0.0, 4e-9) for kind in KINDS}
    network = Measured(4, NETWORK.lines, busy)
    one = predict(WORK, network, "none", "overlapped")
    assert one.step_s == pytest.approx(0.010 + 4e-9 * 4 * PARAMETERS)
    assert predict(WORK, network, "none", "every_step") == predict(
        WORK, NETWORK, "none", "every_step"
    )


def test_hosts_exchange_pieces_where_they_are_known() -> None:
    refused = predict(WORK, NETWORK, "none", "hierarchical")
    assert math.isinf(refused.step_s) and "several hosts" in refused.refused
    inside = Measured(2, {kind: Line(0.0, 1e-9) for kind in KINDS})
    between = Measured(2, {kind: Line(0.0, 1e-7) for kind in KINDS})
    network = Measured(4, NETWORK.lines, parts=(inside, between))
    piece = 4 * (3 * 3 * 8 * 32 + 16 + 256 * 64 + 32)  # of every tensor a half
    one = predict(WORK, network, "none", "hierarchical")
    assert one.exchange_s == pytest.approx(1e-9 * (2 * piece) + 1e-7 * piece + 1e-9 * piece)
    assert predict(WORK, network, "int8", "hierarchical").codec_s == pytest.approx(0.002 / 2)
    rare = predict(WORK, network, "none", "hierarchical", 8)
    alone = 1e-9 * 4 * PARAMETERS  # what a host adds up at every step
    assert rare.step_s == pytest.approx(0.010 + alone + one.exchange_s / 8)
    both = [way.label for way in predict_all(WORK, network) if way.sync == "hierarchical"]
    assert both[:2] == ["none, hierarchical", "none, hierarchical every 8 steps"]


def test_a_compression_is_refused_above_its_ranks_but_not_between_few_hosts() -> None:
    link = Line(1e-5, 1e-9)
    cluster = Cluster(32, link, link, per_host=8)
    assert predict(WORK, cluster, "int8", "every_step").refused == "at most 8 ranks"
    assert not predict(WORK, cluster, "int8", "hierarchical").refused
    residuals = {"topk": Whole()}, {"topk": Line(0.0, 0.0)}
    work = dataclasses.replace(WORK, reducers=residuals[0], codecs=residuals[1])
    assert predict(work, cluster, "topk", "hierarchical").refused
    text = matrix(predict_all(WORK, cluster))
    assert "- int8: at most 8 ranks" in text
    assert all(name in text for name in STRATEGIES)


def test_ranks_that_normalise_together_have_no_rounds() -> None:
    joint = dataclasses.replace(WORK, joint=True)
    ways = {way.sync: way for way in predict_all(joint, NETWORK) if way.compression == "none"}
    for sync in STRATEGIES:
        refused = ways[sync].refused
        assert ("sync_batch_norm" in refused) == (sync in ("local", "delayed")), sync


def test_every_compression_calls_what_was_measured_and_can_be_timed() -> None:
    reducers = make_reducers(Config())
    assert set(reducers) == set(COMPRESSIONS)
    for reducer in reducers.values():
        kinds = {one.kind for one in reducer.collectives(SHAPES, 4)}
        assert kinds and kinds <= {*KINDS, "allmax"}
    lines = codec_seconds(Config(), SHAPES, World(), [2, 8])
    assert lines["none"] == Line(0.0, 0.0)
    assert set(lines) == set(COMPRESSIONS)
    assert all(line.at(2) >= 0 and line.at(8) >= line.at(2) for line in lines.values())
    assert set(LIMITS) <= set(COMPRESSIONS)


def test_a_mirror_gathers_as_much_as_there_would_be() -> None:
    mirror = Mirror(3)
    assert mirror.allgather(tf.ones([2, 5]), "x").shape == (6, 5)
    assert mirror.allreduce(tf.ones([2]), "x").shape == (2,)
    assert float(mirror.size_tensor()) == 3


def test_a_choice_changes_nothing_else() -> None:
    config = Config.model_validate({"distribution": {"bucket_mb": 3.0, "compression": "fp16"}})
    changed = with_choice(config, "topk", "local", 8)
    assert changed.distribution.sync_every_steps == 8
    assert changed.distribution.bucket_mb == 3.0
    assert with_choice(changed, "none", "overlapped", 1).distribution.sync_every_steps is None
