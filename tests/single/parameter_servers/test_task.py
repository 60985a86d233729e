"""What a process reads from TF_CONFIG."""

import json

import pytest

from app.distributed.launcher import PARAMETER_SERVERS, Launched, read_launcher, read_task
from app.errors import UserError

CLUSTER = {"chief": ["a:1"], "worker": ["a:2", "b:3"], "ps": ["b:4"]}


def environ(cluster=CLUSTER, role="worker", index=1, **more):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


@pytest.mark.parametrize(
    ("role", "index", "number", "name"),
    [("chief", 0, 0, "coordinator"), ("worker", 1, 2, "worker 1"), ("ps", 0, 3, "server 0")],
)
def test_tasks_are_numbered_coordinator_workers_servers(role, index, number, name):
    task = read_task(environ(role=role, index=index))
    assert task is not None
    assert (task.number, task.name, task.size, task.leads) == (number, name, 4, number == 0)
    assert read_launcher(environ(role=role, index=index)) == Launched(PARAMETER_SERVERS, number, 4)


def test_a_task_knows_where_it_is_reached():
    task = read_task(environ())
    assert task is not None and task.address == ("b", 3)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"TF_CONFIG": "nonsense"},
        {"TF_CONFIG": "[]"},
        {"TF_CONFIG": "{}"},
        environ({"chief": ["a:1"], "worker": ["a:2", "a:3"]}),  # of another strategy
    ],
)
def test_without_parameter_servers_there_is_no_task(given):
    assert read_task(given) is None
    assert read_launcher(given) == Launched(None, 0, 1)


def test_horovodrun_comes_first_and_the_batch_system_last():
    given = environ() | {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "3"}
    assert read_launcher(given) == Launched("horovodrun", 0, 3) and read_task(given) is None
    given = environ() | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert read_launcher(given) == Launched(PARAMETER_SERVERS, 2, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (environ(CLUSTER | {"worker": []}), "expected one chief, and workers and servers"),
        (environ(CLUSTER | {"chief": ["a:1", "a:9"]}), "expected one chief"),
        (environ({"worker": ["a:2"], "ps": ["a:3"]}, index=0), "expected one chief"),
        (environ(CLUSTER | {"evaluator": ["a:9"]}), "'evaluator' is none of chief, worker, ps"),
        (environ(role="evaluator", index=0), "'evaluator' is none of"),
        (environ(index=2), "there is no worker 2"),
        (environ(index=-1), "there is no worker -1"),
        (environ(CLUSTER | {"ps": ["b"]}), "'b' is not HOST:PORT"),
        (environ(CLUSTER | {"ps": ["b:99999"]}), "'b:99999' is not HOST:PORT"),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER})}, "'task' is missing"),
    ],
)
def test_a_wrong_cluster_is_refused_by_name(given, message):
    with pytest.raises(UserError, match="TF_CONFIG is wrong: ") as error:
        read_task(given)
    assert message in str(error.value)
    assert read_launcher(given) == Launched(None, 0, 1)
