"""The measurement of a network, on a clock that only its collectives move."""

import numpy as np
import pytest
import tensorflow as tf

from app.advice import measure
from app.advice.network import text, to_json
from app.advice.plot import network_png
from app.distributed.world import World

ALPHA, BETA = 1e-3, 1e-8


class Slow(World):
    """Two ranks, of which this is one; a collective takes what a line says."""

    size = 2
    backend = "gloo"

    def __init__(self) -> None:
        self.now = 0.0

    def _move(self, tensor: np.ndarray) -> np.ndarray:
        self.now += ALPHA + BETA * tensor.nbytes
        return tensor

    def _take(self, tensor: tf.Tensor, name: str) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._move, [tensor], tf.float32), tensor.shape)

    allreduce = allgather = alltoall = _take


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Slow:
    world = Slow()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: world.now)
    return world


def test_the_line_of_a_network_is_found(world: Slow) -> None:
    part = measure.measure_part("all", world, 2**20, budget_s=100)
    for kind in measure.KINDS:
        assert part.lines[kind].alpha == pytest.approx(ALPHA, rel=1e-3)
        assert part.lines[kind].beta == pytest.approx(BETA, rel=1e-3)
    sizes = [point.size for point in part.points if point.kind == "allreduce"]
    assert sizes == [1024 * 4**power for power in range(6)]
    gathered = [point.size for point in part.points if point.kind == "allgather"]
    assert gathered == sizes[:-1]  # what two ranks hand in counts


def test_sizes_for_which_there_is_no_time_are_left_out(world: Slow) -> None:
    part = measure.measure_part("all", world, 2**26, budget_s=1.0)
    sizes = [point.size for point in part.points if point.kind == "allreduce"]
    assert 2**20 <= sizes[-1] < 2**26
    assert world.now < 3 * 1.0 * 1.5
    assert part.lines["allreduce"].beta == pytest.approx(BETA, rel=1e-3)


def test_what_was_measured_can_be_read_and_drawn(world: Slow) -> None:
    found = measure.Measurement(
        ["one", "two"], "gloo", [measure.measure_part("all", world, 2**16, 100)], 1e-10
    )
    printed = text(found)
    assert "2 ranks: 0 on one; 1 on two, over gloo" in printed
    assert "1.00 ms + bytes / (100 MB/s)" in printed
    assert "a rank adds up float32 at 10 GB/s" in printed
    assert to_json(found)["parts"][0]["fits"]["allreduce"]["alpha"] == pytest.approx(ALPHA)
    assert network_png(found).startswith(b"\x89PNG")
    assert found.network.seconds("allmax", 1e6) == found.network.seconds("allreduce", 1e6)
    assert found.network.by_host() is None


def test_hosts_have_levels_where_all_have_several_ranks() -> None:
    assert measure.has_levels(["a", "b", "a", "b"])
    assert not measure.has_levels(["a", "a"])
    assert not measure.has_levels(["a", "b"])
    assert not measure.has_levels(["a", "a", "b"])
