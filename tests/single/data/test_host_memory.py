"""Memory that the ranks of a host share."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.data.host_memory import HostMemory
from app.decide import Shared, share_memory
from app.distributed.world import World


class Threads(World):
    """Ranks that are threads of this process, so many on each host."""

    def __init__(self, rank: int, hosts: list[int], values: list[Any], barrier: threading.Barrier):
        before, after = hosts[:rank], hosts[rank:]
        self.rank, self.size = rank, len(hosts)
        self.local_rank = before.count(hosts[rank])
        self.local_size = self.local_rank + after.count(hosts[rank])
        self._hosts, self._values, self._barrier = hosts, values, barrier

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(60)
        gathered = [self._as_seen_here(other) for other in range(self.size)]
        self._barrier.wait(60)
        return gathered

    def _as_seen_here(self, rank: int) -> Any:
        value = self._values[rank]
        if isinstance(value, tuple) and self._hosts[rank] != self._hosts[self.rank]:
            return (0, *value[1:])  # no such process here
        return value


def on_ranks(hosts: list[int], run: Callable[[World], Any]) -> list[Any]:
    """What `run` returns on each rank; `hosts`: the host of each."""
    values: list[Any] = [None] * len(hosts)
    barrier = threading.Barrier(len(hosts))
    worlds = [Threads(rank, hosts, values, barrier) for rank in range(len(hosts))]
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(run, worlds))


def fill(world: World) -> Shared:
    """Each writes its rows."""
    memory = share_memory((100, 3), world)
    memory.array[memory.part :: memory.parts] = 10 + world.rank
    world.barrier()
    return memory


@pytest.mark.parametrize("hosts", [[0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1], [0]])
def test_the_ranks_of_a_host_fill_one_memory_and_those_of_others_their_own(hosts) -> None:
    memories = on_ranks(hosts, fill)
    for host in set(hosts):
        ranks = [rank for rank in range(len(hosts)) if hosts[rank] == host]
        assert [memories[rank].part for rank in ranks] == list(range(len(ranks)))
        expected = np.resize(np.array(ranks) + 10, 100)[:, None].repeat(3, axis=1)
        for rank in ranks:
            np.testing.assert_array_equal(memories[rank].array, expected)


def test_ranks_that_cannot_share_keep_their_own_and_say_so(monkeypatch, caplog) -> None:
    monkeypatch.setattr(HostMemory, "opened", lambda offers: HostMemory.private())
    memories = on_ranks([0, 0], fill)
    for rank, memory in enumerate(memories):
        assert (memory.part, memory.parts) == (0, 1)
        assert (memory.array == 10 + rank).all()
    assert "cannot share memory" in caplog.text


def test_a_file_of_another_process_with_that_number_is_not_taken_for_it(tmp_path: Path) -> None:
    with (tmp_path / "other").open("wb") as file:
        assert HostMemory.opened([(os.getpid(), file.fileno(), "token")]).handle is None


def test_no_memory_for_no_images() -> None:
    assert share_memory((0, 4, 4, 3), World()).array.shape == (0, 4, 4, 3)


def test_nothing_is_left_behind_by_ranks_that_are_killed() -> None:
    code = """
import os, signal
from app.decide import share_memory

class Pair:
    rank = local_rank = 0
    local_size = 2
    gather = staticmethod(lambda value: [value, value])

memory = share_memory((1000,), Pair())
print(memory.parts, sum("memfd" in line for line in open("/proc/self/maps")), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    before = set(Path("/dev/shm").glob("*lockstep*"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and done.stdout == "2 1\n", done.stderr
    assert set(Path("/dev/shm").glob("*lockstep*")) <= before
