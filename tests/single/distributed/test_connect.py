"""What `connect()` refuses before Horovod starts."""

import socket

import pytest

from app.distributed.launcher import Launched
from app.distributed.world import connect
from app.errors import UserError


def test_gloo_on_a_host_that_cannot_find_itself_is_refused(monkeypatch) -> None:
    pytest.importorskip("horovod.tensorflow")

    def fail(*arguments):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "lost")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UserError, match="own name 'lost' cannot be resolved.*/etc/hosts"):
        connect(Launched("horovodrun", 0, 2))
