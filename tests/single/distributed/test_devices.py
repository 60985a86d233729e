"""Which GPU and cores a rank takes, and what it reads of its launcher."""

from types import SimpleNamespace

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from app.distributed import devices
from app.distributed.devices import (
    choose_cores,
    choose_gpu,
    connect_configured,
    unused_gpus,
    warn_of_unused_gpus,
)
from app.distributed.horovod_world import connect
from app.distributed.launcher import Launched, read_launcher
from app.distributed.world import World
from app.errors import UserError


def test_each_local_rank_takes_the_gpu_of_its_number() -> None:
    gpus = ["GPU:0", "GPU:1", "GPU:2"]
    assert [choose_gpu(gpus, rank, 3) for rank in range(3)] == gpus
    assert choose_gpu(gpus, 1, 2) == "GPU:1"


def test_a_host_without_gpus_has_none_to_give() -> None:
    assert choose_gpu([], 3, 8) is None


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_more_ranks_than_gpus_are_refused_on_every_rank(rank: int) -> None:
    with pytest.raises(UserError, match=r"3 ranks on a host with 2 visible GPU\(s\): .* at most 2"):
        choose_gpu(["GPU:0", "GPU:1"], rank, 3)


@settings(deadline=None)
@given(st.sets(st.integers(0, 255), min_size=1, max_size=64), st.integers(1, 64))
def test_cores_are_divided_among_local_ranks(cores: set[int], local_size: int) -> None:
    parts = [choose_cores(sorted(cores), rank, local_size) for rank in range(local_size)]
    sizes = [len(part) for part in parts]
    if len(cores) < local_size:
        assert set(sizes) == {1}
        assert {core for part in parts for core in part} == cores
    else:
        assert [core for part in parts for core in part] == sorted(cores)
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)


def test_seven_cores_for_three_ranks() -> None:
    cores = [9, 1, 2, 3, 5, 6, 7]
    parts = [choose_cores(cores, rank, 3) for rank in range(3)]
    assert parts == [[1, 2, 3], [5, 6], [7, 9]]


def test_two_cores_for_three_ranks_are_shared() -> None:
    assert [choose_cores([4, 8], rank, 3) for rank in range(3)] == [[4], [8], [4]]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launched(None, 0, 1)),
        ({"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4"}, Launched("horovodrun", 3, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Launched("Open MPI", 1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launched("MPI (PMI)", 0, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, Launched("srun", 5, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Launched(None, 0, 1)),  # sbatch, no srun
        ({"OMPI_COMM_WORLD_RANK": "1"}, Launched(None, 0, 1)),
    ],
)
def test_each_launcher_is_known_by_its_variables(environ, expected: Launched) -> None:
    assert read_launcher({"PATH": "/bin", **environ}) == expected


def test_the_inner_launcher_counts() -> None:
    srun = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "PMI_RANK": "0", "PMI_SIZE": "2"}
    ompi = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
    horovodrun = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "8"}
    assert read_launcher({**srun, **ompi}) == Launched("Open MPI", 3, 4)
    assert read_launcher({**srun, **ompi, **horovodrun}) == Launched("horovodrun", 1, 8)
    assert read_launcher(srun) == Launched("MPI (PMI)", 0, 2)


@pytest.mark.parametrize("launched", [Launched(None, 0, 1), Launched("horovodrun", 0, 1)])
def test_one_rank_is_a_world_of_one(launched: Launched) -> None:
    world = connect(launched)
    assert type(world) is World
    assert (world.rank, world.size, world.local_rank, world.local_size) == (0, 1, 0, 1)
    assert world.is_chief


def test_in_a_world_of_one_collectives_give_what_they_get() -> None:
    world = World()
    assert world.gather({"a": 1}) == [{"a": 1}]
    assert world.broadcast("value") == "value"
    assert world.from_chief(lambda: 7) == 7
    world.verify_same({"config": "same"})
    world.barrier()


def test_an_error_of_the_only_rank_is_shared_and_names_no_rank() -> None:
    def fail() -> None:
        raise UserError("no such file")

    with pytest.raises(UserError) as caught:
        World().from_chief(fail)
    assert (str(caught.value), caught.value.shared) == ("no such file", True)
    with pytest.raises(UserError) as caught, World().together():
        fail()
    assert (str(caught.value), caught.value.shared) == ("no such file", True)


class ThreeRanks(World):
    """A world whose other ranks answer what it is told."""

    size = 3

    def __init__(self, *others: object) -> None:
        self.others = others

    def gather(self, value):
        return [value, *self.others]


def test_an_error_of_another_rank_is_raised_here_with_its_number() -> None:
    with (
        pytest.raises(UserError, match="^rank 2: disk full$"),
        ThreeRanks(None, "disk full").together(),
    ):
        pass


def test_what_differs_between_ranks_is_named() -> None:
    world = ThreeRanks({"config": "a", "code": "1"}, {"config": "a", "code": "2"})
    with pytest.raises(UserError, match="rank 2 differs from rank 0 in code: '2' instead of '1'"):
        world.verify_same({"config": "a", "code": "1"})


# GPUs that are there and not used


def exchanging(nccl: bool) -> World:
    """A world of ranks that joined with a Horovod that was built with NCCL, or without."""
    world = World()
    world.has_nccl = nccl
    return world


@pytest.fixture
def host(monkeypatch):
    """Makes this host one with so many GPUs, of which TensorFlow sees some."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(there: int, seen: int) -> None:
        gpus = [SimpleNamespace(name=f"GPU:{number}") for number in range(seen)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(devices, "count_gpus", lambda: there)

    return make


def test_gpus_that_tensorflow_does_not_see_are_told_with_what_to_do(host) -> None:
    host(there=8, seen=0)
    (found,) = unused_gpus(World(), {})
    assert "TensorFlow sees 0 of 8, so ranks compute on CPU cores. To fix it: " in found
    assert unused_gpus(exchanging(nccl=True), {}) == [found]


@pytest.mark.parametrize("seen", [0, 2])
def test_a_horovod_without_gpus_is_told_where_there_are_some(host, seen: int) -> None:
    host(there=2, seen=seen)
    assert "built without NCCL" in unused_gpus(exchanging(nccl=False), {})[-1]
    assert len(unused_gpus(exchanging(nccl=False), {})) == (1 if seen else 2)


def test_nothing_is_told_where_nothing_is_wrong(host) -> None:
    host(there=0, seen=0)
    assert unused_gpus(exchanging(nccl=False), {}) == []
    host(there=8, seen=8)
    assert unused_gpus(exchanging(nccl=True), {}) == unused_gpus(World(), {}) == []
    host(there=8, seen=2)  # somebody gave it no more
    assert unused_gpus(exchanging(nccl=True), {"CUDA_VISIBLE_DEVICES": "0,1"}) == []


@pytest.mark.parametrize(("visible", "told"), [("", 0), ("-1", 0), ("0,1", 1), ("GPU-8f2c", 1)])
def test_gpus_that_are_hidden_on_purpose_are_not_missed(host, visible: str, told: int) -> None:
    host(there=2, seen=0)
    assert len(unused_gpus(World(), {"CUDA_VISIBLE_DEVICES": visible})) == told


def test_the_chief_warns_once_for_all_hosts_that_have_the_same(host, caplog) -> None:
    host(there=8, seen=0)

    class Hosts(ThreeRanks):
        def gather(self, value):
            return [("gpu1", value[1]), ("gpu2", value[1]), ("cpu1", [])]

    warn_of_unused_gpus(Hosts())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("GPUs of gpu1 and 1 more host(s): TensorFlow sees 0 of 8")
    caplog.clear()
    other = Hosts()
    other.rank = other.local_rank = 1
    warn_of_unused_gpus(other)
    assert not caplog.records


def test_a_run_begins_with_the_warning(host, caplog) -> None:
    host(there=1, seen=0)
    connect_configured()
    assert "TensorFlow sees 0 of 1" in caplog.text
