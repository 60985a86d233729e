"""Where coordinator, workers and servers run, and what each is told."""

import json
import socket

import pytest

from app.distributed.launcher import read_task
from app.doctor.hosts import Host
from app.errors import UserError
from launch.cluster import configs, deal, free_ports, main, parse

TWO = [Host("a", 2), Host("b", 2)]


def where(slots):
    return [(slot.role, slot.index, slot.host) for slot in slots]


def test_workers_fill_host_by_host_and_servers_take_turns():
    assert where(deal(None, 3, TWO)) == [
        ("chief", 0, "a"),
        *[("worker", 0, "a"), ("worker", 1, "a"), ("worker", 2, "b"), ("worker", 3, "b")],
        *[("ps", 0, "a"), ("ps", 1, "b"), ("ps", 2, "a")],
    ]


def test_a_worker_knows_its_share_of_its_host():
    workers = [slot for slot in deal(3, 1, TWO) if slot.role == "worker"]
    assert [(one.host, one.number, one.of) for one in workers] == [
        ("a", 0, 2), ("a", 1, 2), ("b", 0, 1),
    ]  # fmt: skip


def test_more_workers_than_slots_are_refused():
    with pytest.raises(UserError, match="5 workers, but the hosts have 4 slots"):
        deal(5, 1, TWO)


def test_every_task_is_told_the_same_cluster_and_its_own_part():
    slots = deal(None, 1, TWO)
    told = configs(slots, {"a": "10.0.0.1", "b": "10.0.0.2"}, range(7000, 7006))
    tasks = [read_task({"TF_CONFIG": one}) for one in told]
    assert [task.number for task in tasks] == list(range(6))
    assert tasks[0].address == ("10.0.0.1", 7000)
    assert tasks[3].cluster["worker"][2] == "10.0.0.2:7003"
    assert len({json.dumps(json.loads(one)["cluster"]) for one in told}) == 1


def test_free_ports_are_free_and_differ():
    ports = free_ports(5, "127.0.0.1")
    assert len(set(ports)) == 5
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "are for the command train"),
        (["evaluate", "runs/X"], "are for the command train"),
        (["-w", "0", "train"], "-w: expected a whole number from 1"),
        (["-s", "none", "train"], "-s: expected a whole number from 1"),
        (["--port", "80", "train"], "--port: expected a whole number from 1024"),
        (["--port", "65534", "train"], "4 processes need as many ports after it"),
        (["--network-interface", "nonsense0", "train"], "nonsense0"),
        (["-H", "a;b", "train"], "is not a host name"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said


def test_what_follows_the_command_is_the_applications():
    options = parse(["-w", "3", "-s", "2", "train", "-w", "x", "--port", "1"])
    assert (options.workers, options.servers) == (3, 2)
    assert options.arguments == ["train", "-w", "x", "--port", "1"]
