"""Where ranks are in a world, and which hosts there are."""

import json

import pytest

from app.doctor.hosts import Host, Ssh
from app.errors import UserError
from launch import discovery, gloo, start
from launch.commands import Placement
from launch.discovery import ask_script
from launch.worlds import Worlds, variables


def numbers(hosts):
    """(rank, size, local rank, local size, cross rank, cross size) of each rank."""
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    return [tuple(int(told[f"HOROVOD_{name}"]) for name in names) for told in variables(hosts)]


def test_ranks_of_a_host_may_be_anywhere_in_a_world():
    assert numbers(["a"]) == [(0, 1, 0, 1, 0, 1)]
    assert numbers(["a", "a", "b"]) == [
        (0, 3, 0, 2, 0, 2),
        (1, 3, 1, 2, 0, 1),
        (2, 3, 0, 1, 1, 2),
    ]
    assert numbers(["b", "a", "b", "a"]) == [
        (0, 4, 0, 2, 0, 2),
        (1, 4, 0, 2, 1, 2),
        (2, 4, 1, 2, 0, 2),
        (3, 4, 1, 2, 1, 2),
    ]


@pytest.mark.parametrize("listed", ["h1:2,h2:2", "h1:1,h2:3", "h1:4"])
def test_a_first_world_is_what_horovodrun_makes_it(listed):
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.gloo_run import create_slot_env_vars

    plan = get_host_assignments(parse_hosts(listed), 4)
    assert variables([slot.hostname for slot in plan]) == [create_slot_env_vars(s) for s in plan]


def test_every_world_has_a_server_of_its_own():
    worlds = Worlds(None)
    first, second = worlds.open(["a", "b"]), worlds.open(["b"])
    port = "HOROVOD_GLOO_RENDEZVOUS_PORT"
    assert first[0][port] == first[1][port] != second[0][port]
    assert port not in worlds.alone("a")
    worlds.formed()


def test_the_token_goes_to_an_agent_on_its_input_only(monkeypatch):
    monkeypatch.setattr(gloo, "is_local", lambda host: host == "here")
    placement = Placement([Host("here", 1), Host("there", 1)], Ssh())
    environ, secret = {"PATH": "/bin", "HOME": "/x"}, {"LOCKSTEP_LINE": "token"}
    _, own, given = gloo.agent(placement, "here", environ, secret)
    assert own == environ and json.loads(given) == secret
    command, own, given = gloo.agent(placement, "there", environ, secret)
    assert json.loads(given) == {"PATH": "/bin", **secret}
    assert "LOCKSTEP_LINE" not in own and "token" not in " ".join(command)


def script(tmp_path, text):
    path = tmp_path / "discover"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_script_tells_the_hosts(tmp_path):
    path = script(tmp_path, "echo h1; echo h2:4")
    assert ask_script(path, 2) == [Host("h1", 2), Host("h2", 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("exit 3", "ended with exit code 3"), ("true", "printed no host"), ("echo -x", "not a host")],
)
def test_a_script_that_fails_is_told(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        ask_script(script(tmp_path, text), 1)
    with pytest.raises(UserError, match="cannot be run"):
        ask_script(tmp_path / "none", 1)


def test_a_hostfile_is_read_again_and_holds_while_it_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(gloo, "is_local", lambda host: True)
    path = tmp_path / "hosts"
    path.write_text("h1 slots=2\n")
    hosts = discovery.of_hostfile(path)

    def find(wanted):
        for _ in range(1000):
            if hosts.found() == wanted:
                return True
            discovery.time.sleep(0.01)
        return False

    assert find({"h1": 2})
    path.write_text("h1 slots=2\nh2 slots=2\n")
    assert find({"h1": 2, "h2": 2})
    path.write_text("")
    discovery.time.sleep(0.1)
    hosts.found()
    assert hosts.found() is None


def terms(*arguments):
    options = start.parse("local", arguments)
    return start.elastic_terms(options, options.ranks or 2)


def test_training_over_gloo_is_elastic_and_nothing_else():
    assert terms("-n", "3", "train") == (3, 3, 1, 30.0)
    given = ("--min-ranks", "2", "--max-ranks", "4", "--heartbeat-s", "3")
    assert terms(*given, "train") == (2, 4, 2, 3)
    assert terms("--mpi", "train") is None and terms("evaluate", "R") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mpi", "--min-ranks", "1", "train"), "for the command train over gloo"),
        (("--heartbeat-s", "3", "evaluate"), "for the command train over gloo"),
        (("--min-ranks", "3", "train"), "2 rank.s. would be started: expected from"),
        (("--max-ranks", "1", "train"), "to --max-ranks 1"),
    ],
)
def test_terms_that_cannot_be_met_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        terms(*arguments)
