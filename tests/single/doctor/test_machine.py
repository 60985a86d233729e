"""The doctor's judgement on planted facts of this machine, and how it gathers them."""

import json
import os
import time

import pytest

from app.doctor import facts as local_facts
from app.doctor.machine import (
    free_memory_bytes,
    judge_cores,
    judge_disk,
    judge_memory,
    judge_name,
    judge_own_interfaces,
    judge_shared_memory,
    judge_threads,
    read_limits,
)
from tests.single.doctor.planted import GIB, MIB


def plant(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_limits_of_cgroup_v2_are_the_tightest_up_the_tree(tmp_path):
    plant(
        tmp_path,
        proc__self__cgroup="0::/pod/box\n",
        sys__fs__cgroup__pod__box__cpu_dot_max="max 100000\n",
        sys__fs__cgroup__pod__cpu_dot_max="150000 100000\n",
        sys__fs__cgroup__pod__box__memory_dot_max="max\n",
        sys__fs__cgroup__pod__memory_dot_max=f"{4 * GIB}\n",
        sys__fs__cgroup__pids_dot_max="100\n",
    )
    assert read_limits(tmp_path) == (1.5, 4 * GIB, 100)


def test_limits_of_cgroup_v1_are_read_and_its_huge_number_is_no_limit(tmp_path):
    plant(
        tmp_path,
        proc__self__cgroup="5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n3:pids:/\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="250000\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000\n",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
        sys__fs__cgroup__pids__pids_dot_max="max\n",
    )
    assert read_limits(tmp_path) == (2.5, None, None)


@pytest.mark.parametrize("inner", ["max", f"{8 * GIB}"])
def test_free_memory_is_the_least_of_the_machine_and_of_every_cgroup_above(tmp_path, inner):
    plant(
        tmp_path,
        proc__self__cgroup="0::/pod/box\n",
        proc__meminfo=f"MemTotal: 99 kB\nMemAvailable: {16 * GIB // 1024} kB\n",
        sys__fs__cgroup__pod__box__memory_dot_max=f"{inner}\n",
        sys__fs__cgroup__pod__box__memory_dot_current=f"{GIB}\n",
        sys__fs__cgroup__pod__memory_dot_max=f"{6 * GIB}\n",
        sys__fs__cgroup__pod__memory_dot_current=f"{2 * GIB}\n",
    )
    assert free_memory_bytes(tmp_path) == 4 * GIB


def test_free_memory_without_a_limit_is_that_of_the_machine_if_it_tells(tmp_path):
    assert free_memory_bytes(tmp_path) is None
    plant(tmp_path, proc__meminfo="MemAvailable: 7 kB\n")
    assert free_memory_bytes(tmp_path) == 7 * 1024


def test_without_cgroups_there_is_no_limit(tmp_path):
    assert read_limits(tmp_path) == (None, None, None)
    plant(tmp_path, proc__self__cgroup="rubbish\n")
    assert read_limits(tmp_path) == (None, None, None)


def test_a_quota_below_the_visible_cores_is_a_warning():
    assert judge_cores(64, 2.0).status == "warning"
    assert judge_cores(2, 2.0).status == judge_cores(2, None).status == "ok"


def test_few_threads_and_little_memory_are_warnings():
    assert judge_threads([None, 100]).status == "warning"
    assert judge_threads([None, 4096]).status == judge_threads([None]).status == "ok"
    assert judge_memory(GIB, GIB).status == "warning"
    assert judge_memory(GIB, None).status == judge_memory(None, None).status == "warning"
    assert judge_memory(60 * GIB, 8 * GIB).status == "ok"


def test_the_shared_memory_of_a_container_is_too_little_for_gpus_only():
    assert judge_shared_memory(64 * MIB, 64 * MIB, gpus=1).status == "warning"
    assert judge_shared_memory(64 * MIB, 64 * MIB, gpus=0).status == "ok"
    assert judge_shared_memory(8 * GIB, 8 * GIB, gpus=1).status == "ok"
    assert judge_shared_memory(None, 0, gpus=0).status == "warning"


@pytest.mark.parametrize(
    ("free_bytes", "writable", "status"),
    [
        (50 * GIB, True, "ok"),
        (GIB, True, "warning"),
        (MIB, True, "problem"),
        (50 * GIB, False, "warning"),
        (None, True, "problem"),
    ],
)
def test_the_disk_must_have_room(free_bytes, writable, status):
    assert judge_disk("disk", "/runs", free_bytes, writable).status == status


def test_the_own_name_must_resolve_and_to_more_than_loopback_among_hosts():
    assert judge_name("box", None, several_hosts=False).status == "problem"
    assert judge_name("box", ["127.0.1.1"], several_hosts=False).status == "ok"
    assert judge_name("box", ["127.0.1.1", "::1"], several_hosts=True).status == "warning"
    assert judge_name("box", ["127.0.1.1", "10.0.0.1"], several_hosts=True).status == "ok"


def test_the_interface_asked_for_must_exist():
    own = {"lo": "127.0.0.1", "eth0": "10.0.0.1"}
    assert (
        judge_own_interfaces(own, "eth0").status == judge_own_interfaces(own, None).status == "ok"
    )
    assert judge_own_interfaces(own, "ib0").status == "problem"
    assert judge_own_interfaces({}, None).status == "problem"


def test_the_facts_of_this_machine_are_json_and_know_loopback():
    facts = local_facts.gather(["pytest", "no-such-package"], "/no/such/place")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"] == {"pytest": pytest.__version__, "no-such-package": None}
    assert facts["interfaces"]["lo"] == "127.0.0.1"
    assert facts["directory"] is False and facts["disk_free_bytes"] > 0
    assert facts["horovod_built_for"] == local_facts.version("tensorflow")


def test_a_dead_name_service_does_not_hold_up_the_facts(monkeypatch):
    monkeypatch.setattr(local_facts, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: time.sleep(60))
    started_s = time.monotonic()
    assert local_facts.gather([], os.getcwd())["addresses"] is None
    assert time.monotonic() - started_s < 5
