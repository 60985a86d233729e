"""Keeps others off the ports of TensorFlow's servers.

gRPC is not authenticated here, and TensorFlow listens on all interfaces of a host, whatever address
it is given ("0.0.0.0" in grpc_server_lib.cc). So the listening socket gets a filter: it drops what
does not come to the one address that was meant. The kernel runs it, and accepted connections have
it too; no privilege is needed. See socket(7), SO_ATTACH_FILTER, and bpf(4).
"""

from __future__ import annotations  # the doctor reads this too

import ctypes
import os
import socket
import struct

from app.errors import UserError

SO_ATTACH_FILTER = 26
NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from the beginning of the IP header
LOAD_BYTE, LOAD_WORD, SHIFT_RIGHT, JUMP_EQUAL, RETURN = 0x30, 0x20, 0x74, 0x15, 0x06
ALL = 0xFFFFFFFF


def address_of_host(host: str) -> str:
    """The IPv4 address of a host in a cluster. Raises UserError."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise UserError(f"TF_CONFIG: the host '{host}' cannot be resolved ({error})") from None


def check_free(where: str, port: int) -> None:
    """Raise UserError if something listens on the port. `where`: how to call it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise UserError(
                f"{where}: port {port} of {socket.gethostname()} cannot be used "
                f"({error.strerror}): end what listens there, or use another --port"
            ) from None


def listen_only_at(address: str, port: int) -> None:
    """Have this process's listening sockets of this port drop what is not sent to `address`.

    Raises UserError if that is not possible.
    """
    found = [one for one in _sockets() if _listens(one, port)]
    try:
        if not found:
            raise OSError(0, "it is not found")
        for one in found:
            _attach(one, address)
    except OSError as error:
        raise UserError(
            f"the socket of port {port} cannot be limited to {address} ({error.strerror}), and "
            "TensorFlow would let anybody in who reaches this host"
        ) from None
    finally:
        for one in found:
            one.close()


def why_not() -> str | None:
    """Why a socket cannot be limited to one address on this machine; None if it can."""
    with socket.socket() as one:
        try:
            _attach(one, "127.0.0.1")
        except OSError as error:
            return error.strerror or str(error)
    return None


def _sockets() -> list[socket.socket]:
    """Copies of this process's TCP sockets."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                one = socket.socket(fileno=os.dup(int(name)))
                found.append(one)
        except OSError:
            pass  # it was closed meanwhile
    return found


def _listens(one: socket.socket, port: int) -> bool:
    try:
        is_tcp = one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6)
        return (
            is_tcp
            and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            and one.getsockname()[1] == port
        )
    except OSError:
        return False


def _attach(one: socket.socket, address: str) -> None:
    wanted = int.from_bytes(socket.inet_aton(address), "big")
    steps = (
        (LOAD_BYTE, 0, 0, NETWORK_HEADER),
        (SHIFT_RIGHT, 0, 0, 4),
        (JUMP_EQUAL, 0, 3, 4),  # IPv4?
        (LOAD_WORD, 0, 0, NETWORK_HEADER + 16),  # where it is sent to
        (JUMP_EQUAL, 0, 1, wanted),
        (RETURN, 0, 0, ALL),
        (RETURN, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    # struct sock_fprog: a number and a pointer.
    program = struct.pack("HL", len(steps), ctypes.addressof(code))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
