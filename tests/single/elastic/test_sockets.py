"""The connections between ranks: which they are, and that the end of one is the end of all."""

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from app.elastic.sockets import Sockets

Pair = tuple[socket.socket, socket.socket]  # what Horovod has here, and what another rank has


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Connections that a test has made."""
    made: list[Pair] = []
    yield made
    for pair in made:
        for one in pair:
            one.close()


def connect(pairs: list[Pair], count: int = 1) -> list[Pair]:
    """Over TCP, as between ranks."""
    new = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(count):
            theirs = socket.create_connection(server.getsockname())
            new.append((server.accept()[0], theirs))
            theirs.settimeout(60)
    pairs += new
    return new


def is_cut(pair: Pair) -> bool:
    """Whether the other rank finds the end of it, now."""
    readable, _, _ = select.select([pair[1]], [], [], 0)
    return bool(readable)


def ends(pair: Pair) -> bool:
    """Whether the other rank comes to the end of it, whenever that is."""
    return pair[1].recv(1) == b""


def test_what_a_block_has_opened_is_cut_and_nothing_else(pairs) -> None:
    sockets = Sockets()
    (before,) = connect(pairs)
    with sockets.noted(watches=False):
        inside = connect(pairs, 2)
    (after,) = connect(pairs)
    sockets.cut()
    assert all(ends(pair) for pair in inside)
    assert not is_cut(before) and not is_cut(after)


def test_what_is_cut_stays_open_for_whoever_has_it(pairs) -> None:
    sockets = Sockets()
    with sockets.noted(watches=False):
        ((ours, theirs),) = connect(pairs)
    theirs.sendall(b"last words")
    sockets.cut()
    assert ours.recv(10) == b"last words"
    assert ours.recv(10) == b"" and ours.fileno() >= 0


def test_a_second_block_is_another_world(pairs) -> None:
    sockets = Sockets()
    with sockets.noted(watches=False):
        (old,) = connect(pairs)
    with sockets.noted(watches=False):
        (new,) = connect(pairs)
    sockets.cut()
    assert ends(new) and not is_cut(old)


def test_a_number_that_belongs_to_another_socket_by_now_is_not_cut(pairs) -> None:
    sockets = Sockets()
    with sockets.noted(watches=False):
        gone, stays = connect(pairs, 2)
    number = gone[0].fileno()
    ours, theirs = socket.socketpair()
    pairs.append((ours, theirs))
    gone[0].close()
    reused = socket.socket(fileno=_moved(ours, number))
    sockets.cut()
    assert ends(stays)
    assert reused.fileno() == number
    reused.sendall(b"on")
    assert theirs.recv(2) == b"on"
    reused.close()


def test_a_number_that_changes_hands_while_it_is_cut_is_left_alone(pairs, monkeypatch) -> None:
    sockets = Sockets()
    (other,) = connect(pairs)
    with sockets.noted(watches=False):
        (gone,) = connect(pairs)
    number, dup = gone[0].fileno(), os.dup

    def late(descriptor: int) -> int:
        if descriptor == number:
            _moved(other[0], number)
        return dup(descriptor)

    monkeypatch.setattr(os, "dup", late)
    sockets.cut()
    assert not is_cut(other)


def _moved(one: socket.socket, number: int) -> int:
    """The same socket under this number."""
    return os.dup2(one.fileno(), number)


def test_what_was_forgotten_is_not_cut(pairs) -> None:
    sockets = Sockets()
    with sockets.noted(watches=False):
        (pair,) = connect(pairs)
    sockets.forget()
    sockets.cut()
    assert not is_cut(pair)


@pytest.mark.parametrize("how", ["closed", "reset", "half closed"])
def test_one_that_breaks_cuts_the_others_at_once(pairs, how: str) -> None:
    sockets = Sockets()
    with sockets.noted(watches=True):
        dies, first, second = connect(pairs, 3)
    if how == "half closed":
        dies[1].shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            linger = (1).to_bytes(4, "little") + bytes(4)
            dies[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        dies[1].close()
    assert ends(first) and ends(second)


def test_data_is_no_break(pairs, monkeypatch) -> None:
    sockets, cut = Sockets(), []
    with sockets.noted(watches=False):
        ((ours, theirs),) = connect(pairs)
    theirs.sendall(b"a")
    assert ours.recv(1, socket.MSG_PEEK) == b"a"
    monkeypatch.setattr(sockets, "cut", cut.append)
    monkeypatch.setattr("app.elastic.sockets.LOOK_S", 0.01)
    watch = threading.Thread(target=sockets._watch, args=(sockets._opened,))
    watch.start()
    watch.join(0.1)
    sockets.forget()
    watch.join()
    assert not cut


def test_one_of_a_world_that_is_over_breaks_nothing(pairs) -> None:
    sockets = Sockets()
    with sockets.noted(watches=True):
        (old,) = connect(pairs)
    watch = sockets._opened
    sockets.forget()
    with sockets.noted(watches=True):
        (new,) = connect(pairs)
    old[1].close()
    sockets.cut(watch)  # as the watch of the old world does
    assert not is_cut(new)


def test_a_block_that_fails_notes_nothing(pairs) -> None:
    sockets = Sockets()
    with contextlib.suppress(ValueError), sockets.noted(watches=False):
        (pair,) = connect(pairs)
        raise ValueError
    sockets.cut()
    assert not is_cut(pair)
