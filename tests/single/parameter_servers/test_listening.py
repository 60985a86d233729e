"""The filter that keeps others off a port, with sockets of our own instead of TensorFlow's."""

import socket

import pytest

from app.errors import UserError
from app.parameter_servers.listening import check_free, listen_only_at

SHORT_S = 0.4


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "both"])
def listener(request):
    """Listens on all interfaces, as gRPC does: by an IPv6 socket that takes IPv4 too, if it can."""
    try:
        made = socket.create_server(
            ("", 0), family=request.param, dualstack_ipv6=request.param == socket.AF_INET6
        )
    except (OSError, ValueError) as error:
        pytest.skip(f"no such socket here: {error}")
    with made:
        yield made


def reaches(address, port):
    try:
        socket.create_connection((address, port), SHORT_S).close()
    except OSError:
        return False
    return True


def test_only_the_address_that_was_meant_is_answered(listener):
    port = listener.getsockname()[1]
    assert reaches("127.0.0.1", port) and reaches("127.0.0.2", port)
    listen_only_at("127.0.0.2", port)
    assert reaches("127.0.0.2", port)
    assert not reaches("127.0.0.1", port)


def test_ipv6_is_not_answered():
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        if not reaches("::1", port):
            pytest.skip("no IPv6 here")
        listen_only_at("127.0.0.1", port)
        assert not reaches("::1", port) and reaches("127.0.0.1", port)


def test_a_connection_that_was_let_in_works(listener):
    port = listener.getsockname()[1]
    listen_only_at("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port), SHORT_S) as one:
        other, _ = listener.accept()
        with other:
            one.sendall(b"x" * 100_000)
            assert len(other.recv(1)) == 1


def test_a_port_that_nobody_listens_on_is_an_error():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="cannot be limited to 127.0.0.1"):
            listen_only_at("127.0.0.1", bound.getsockname()[1])


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"^worker 1: port {port} of .* cannot be used"):
            check_free("worker 1", port)
    check_free("worker 1", port)
