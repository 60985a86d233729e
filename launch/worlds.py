"""The worlds of a run over gloo: for each a server at which its ranks meet, and what Horovod wants
to know in every rank. A new world gets a new server, since Horovod keeps one for one world only.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from app.distributed.launcher import MEETING
from launch.gloo import LOOPBACK, own_address


def variables(hosts: Sequence[str]) -> list[dict[str, str]]:
    """Where each rank is in a world. `hosts`: the host name of each rank; the ranks of a host may
    be anywhere in it."""
    on_host = Counter(hosts)
    seen: Counter[str] = Counter()
    local_ranks = []
    for host in hosts:
        local_ranks.append(seen[host])
        seen[host] += 1
    order = list(dict.fromkeys(hosts))
    told = []
    for rank, (host, local_rank) in enumerate(zip(hosts, local_ranks, strict=True)):
        across = [other for other in order if on_host[other] > local_rank]
        told.append(
            {
                "HOROVOD_HOSTNAME": host,
                "HOROVOD_RANK": str(rank),
                "HOROVOD_SIZE": str(len(hosts)),
                "HOROVOD_LOCAL_RANK": str(local_rank),
                "HOROVOD_LOCAL_SIZE": str(on_host[host]),
                "HOROVOD_CROSS_RANK": str(across.index(host)),
                "HOROVOD_CROSS_SIZE": str(len(across)),
            }
        )
    return told


class Worlds:
    """Opens one world after the other. `interface`: None if all ranks run here."""

    def __init__(self, interface: str | None):
        self._address = own_address(interface)
        self._servers: list[Any] = []
        self._shared = {
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": interface or LOOPBACK,
            "PYTHONUNBUFFERED": "1",
        }

    def open(self, hosts: Sequence[str]) -> list[dict[str, str]]:
        """Start the server of a new world; the variables of each rank."""
        # Slow to import, and not needed under MPI.
        from horovod.runner.common.util.hosts import SlotInfo
        from horovod.runner.http.http_server import RendezvousServer

        told = variables(hosts)
        server = RendezvousServer()
        port = server.start()
        server.init(
            [SlotInfo(host, *_numbers(rank)) for host, rank in zip(hosts, told, strict=True)]
        )
        self._servers.append(server)
        meet = dict(zip(MEETING, (self._address, str(port)), strict=True))
        return [{**self._shared, **meet, **rank} for rank in told]

    def alone(self, host: str) -> dict[str, str]:
        """A world of one rank, which meets nobody and needs no server."""
        return {**self._shared, **variables([host])[0]}

    def formed(self) -> None:
        """The newest world has formed: nobody needs the servers of older ones."""
        old, self._servers = self._servers[:-1], self._servers[-1:]
        for server in old:
            threading.Thread(target=server.stop, daemon=True).start()


def _numbers(told: dict[str, str]) -> list[int]:
    """In the order of Horovod's SlotInfo."""
    names = ("RANK", "LOCAL_RANK", "CROSS_RANK", "SIZE", "LOCAL_SIZE", "CROSS_SIZE")
    return [int(told[f"HOROVOD_{name}"]) for name in names]
