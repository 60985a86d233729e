"""The doctor's judgement on planted facts, and its bounds on what hangs or breaks."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from app.commands.doctor import exit_code, lines
from app.doctor import facts as local_facts
from app.doctor import hosts as doctor_hosts
from app.doctor.alike import judge_alike, judge_host, judge_interfaces
from app.doctor.hosts import (
    Host,
    Ssh,
    check_hosts,
    judge_ssh,
    make_ssh,
    parse_hostfile,
    parse_hosts,
    skew_s,
)
from app.doctor.machine import (
    judge_cores,
    judge_disk,
    judge_memory,
    judge_name,
    judge_own_interfaces,
    judge_shared_memory,
    judge_threads,
    read_limits,
)
from app.doctor.probe import Finished, Pending, Result, attempt, run, tail
from app.doctor.software import (
    Probes,
    check_allreduce,
    count_gpus,
    judge_allreduce,
    judge_gpus,
    judge_horovod,
    judge_horovodrun,
    judge_mpi,
    judge_nvidia_smi,
    judge_tensorflow,
    marked,
)
from app.doctor.versions import (
    judge_built_for,
    judge_packages,
    judge_python,
    parse_pins,
    read_pins,
)
from app.errors import UserError

MIB, GIB = 2**20, 2**30
DONE = Finished(None, 0, "", "")
GPU_TENSORFLOW = {"gpus": ["H200"], "cuda": True}
BUILT_FOR_CPU = {"gloo": 1, "MPI": 0, "NCCL": 0, "CUDA": 0}
BUILT_FOR_GPU = {"gloo": 1, "MPI": 1, "NCCL": 23203, "CUDA": 1}


def failed(code=1, out="", err=""):
    return Finished(f"exit code {code}", code, out, err)


def statuses(results):
    return [result.status for result in results]


# Versions


def test_our_requirements_are_read_and_satisfied_here():
    pins = read_pins()
    assert pins["tensorflow"] == "2.20.0" and pins["importlib_resources"] and len(pins) > 15
    installed = local_facts.gather(sorted(pins), "/")["packages"]
    assert statuses(judge_packages(installed, pins)) == ["ok"]


def test_pins_are_read_with_extras_and_comments():
    text = "# a==1\ntensorflow[and-cuda]==2.20.0\nnumpy==2.4.6   # why\nrich>=3\n"
    assert parse_pins(text) == {"tensorflow": "2.20.0", "numpy": "2.4.6"}


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.14", "problem"), ("3.11.0", "ok"), ("3.13.9", "ok"), ("3.14.0rc1", "problem")],
)
def test_python_must_be_supported(version, status):
    assert judge_python(version).status == status


@pytest.mark.parametrize(
    ("package", "version", "status", "word"),
    [
        ("tensorflow", "2.21.0rc1", "problem", "does not compile"),
        ("tensorflow", "2.15.1", "problem", "Keras 2"),
        ("keras", "2.15.0", "problem", "Keras 3"),
        ("setuptools", "81.0.0", "problem", "pkg_resources"),
        ("cmake", "4.0.3", "warning", "cmake 4"),
    ],
)
def test_a_known_trap_is_named_once_with_its_way_out(package, version, status, word):
    result = judge_packages({package: version}, {package: "9.9"})
    assert [(r.status, r.name) for r in result] == [(status, package)]
    assert version in result[0].found and word in result[0].found
    assert f"pip install '{package}==9.9'" in result[0].advice


def test_packages_are_sorted_into_pinned_missing_and_other():
    installed = {"numpy": "2.5.0", "keras": None, "cmake": None, "protobuf": "7.36.2+local"}
    pins = {"numpy": "2.4.6", "keras": "3.15.0", "cmake": "3.31.10", "protobuf": "7.36.2"}
    results = judge_packages(installed, pins)
    assert [(r.status, r.found) for r in results] == [
        ("ok", "1 as pinned: protobuf 7.36.2+local"),
        ("problem", "not installed: keras"),
        ("warning", "numpy 2.5.0 (tested with 2.4.6)"),
    ]


def test_without_requirements_the_traps_are_still_found(tmp_path):
    results = judge_packages({"setuptools": "82.0"}, read_pins(tmp_path / "none.txt"))
    assert statuses(results) == ["warning", "problem"]


def test_a_horovod_of_another_tensorflow_is_a_problem():
    assert judge_built_for("2.20.0", "2.20.0") == []
    assert judge_built_for(None, "2.20.0") == []
    (result,) = judge_built_for("2.19.0", "2.20.0")
    assert result.status == "problem" and "2.19.0" in result.found and "2.20.0" in result.found


# What is installed


def test_imports_that_crash_show_their_output():
    crashed = Finished("killed by SIGSEGV", -11, "", "undefined symbol: _ZN4absl\n")
    for judge, name in ((judge_tensorflow, "TensorFlow"), (judge_horovod, "Horovod")):
        result = judge(None, crashed)
        assert (result.status, result.name) == ("problem", name)
        assert "SIGSEGV\nundefined symbol" in result.found and "make setup" in result.advice


def test_another_keras_backend_is_a_problem():
    facts = {"tensorflow": "2.20.0", "keras": "3.15.0", "backend": "jax"}
    assert judge_tensorflow(facts, DONE).status == "problem"
    assert judge_tensorflow({**facts, "backend": "tensorflow"}, DONE).status == "ok"


def test_horovod_says_what_it_was_built_with():
    cpu = judge_horovod(BUILT_FOR_CPU, DONE)
    assert (cpu.status, cpu.found) == ("ok", "built with gloo; without MPI, NCCL, CUDA")
    assert judge_horovod(BUILT_FOR_GPU, DONE).found == "built with gloo, MPI, NCCL, CUDA"
    assert judge_horovod({**BUILT_FOR_CPU, "gloo": 0, "MPI": 1}, DONE).status == "warning"
    assert judge_horovod({**BUILT_FOR_CPU, "gloo": 0}, DONE).status == "problem"


def test_a_cpu_horovod_on_a_gpu_host_is_a_warning():
    results = judge_gpus(1, GPU_TENSORFLOW, BUILT_FOR_CPU)
    assert statuses(results) == ["ok", "warning"]
    assert "without NCCL" in results[1].found and "LOCKSTEP_HOROVOD=gpu" in results[1].advice
    assert statuses(judge_gpus(1, GPU_TENSORFLOW, BUILT_FOR_GPU)) == ["ok"]


def test_gpus_that_tensorflow_does_not_see_are_a_warning(monkeypatch):
    blind = {"gpus": [], "cuda": False}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (result,) = judge_gpus(4, blind, BUILT_FOR_GPU)
    assert result.status == "warning" and "0 of 4" in result.found and "and-cuda" in result.advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES" in judge_gpus(4, blind, BUILT_FOR_GPU)[0].advice


def test_what_hides_gpus_is_blamed_only_for_those_that_it_hides(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (result,) = judge_gpus(4, {"gpus": ["H200"] * 2, "cuda": True}, BUILT_FOR_GPU)
    assert "sees 2 of 4" in result.found and "unset CUDA_VISIBLE_DEVICES" in result.advice
    (result,) = judge_gpus(4, {"gpus": [], "cuda": True}, BUILT_FOR_GPU)
    assert result.found == "TensorFlow sees 0 of 4, so ranks compute on CPU cores"
    assert "CUDA's libraries" in result.advice
    (result,) = judge_gpus(4, {"gpus": [], "cuda": False}, BUILT_FOR_GPU)
    assert "tensorflow[and-cuda]" in result.advice


def test_gpus_of_a_host_are_counted_in_dev_and_else_by_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus(str(tmp_path)) == 0
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'RTX 4090, 24564'\n")
    smi.chmod(0o755)
    assert count_gpus(str(tmp_path)) == 1
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert count_gpus(str(tmp_path)) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_gpus(str(tmp_path)) == 2


def test_without_gpus_nothing_about_them_is_wrong():
    assert statuses(judge_gpus(0, {"gpus": [], "cuda": False}, BUILT_FOR_CPU)) == ["ok"]
    assert statuses(judge_gpus(0, None, None)) == ["ok"]
    assert judge_nvidia_smi(Finished("nvidia-smi is not installed", None, "", ""), 0) == (0, [])


def test_nvidia_smi_counts_gpus_and_its_failure_is_told_where_there_are_some():
    count, (result,) = judge_nvidia_smi(DONE._replace(out="H200, 143771\nH200, 143771\n"), 0)
    assert (count, result.status) == (2, "ok")
    count, (result,) = judge_nvidia_smi(failed(9, err="driver mismatch"), 2)
    assert (count, result.status) == (2, "warning") and "driver mismatch" in result.found


@pytest.mark.parametrize(
    ("output", "status", "word"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...", "ok", "4.1.4"),
        ("mpirun (Open MPI) 5.0.7", "warning", "5.0.7"),
        ("HYDRA build details:\n  Version: 4.1.2", "warning", "another MPI"),
    ],
)
def test_open_mpi_is_expected_in_4_1(output, status, word):
    result = judge_mpi(DONE._replace(out=output), BUILT_FOR_GPU)
    assert result.status == status and word in result.found


def test_a_missing_mpirun_matters_only_to_a_horovod_with_mpi():
    missing = Finished("mpirun is not installed", None, "", "")
    assert judge_mpi(missing, BUILT_FOR_CPU).status == "ok"
    assert judge_mpi(missing, BUILT_FOR_GPU).status == "warning"


def test_horovodrun_must_belong_to_this_python():
    assert judge_horovodrun("/venv/bin/horovodrun", "/venv/bin/python").status == "ok"
    assert judge_horovodrun(None, "/venv/bin/python").status == "warning"
    other = judge_horovodrun("/usr/bin/horovodrun", "/venv/bin/python")
    assert other.status == "warning" and other.advice == "PATH=/venv/bin:$PATH"


def test_both_ranks_must_say_that_their_sums_are_right():
    both = (
        "[0]<stdout>:rank 0 of 2: allreduce is right\n[1]<stdout>:rank 1 of 2: allreduce is right"
    )
    assert judge_allreduce("gloo", DONE._replace(out=both)).status == "ok"
    one = judge_allreduce("gloo", DONE._replace(out=both.partition("\n")[0]))
    assert one.status == "problem" and "a rank said nothing" in one.found
    wrong = judge_allreduce("mpi", failed(1, both, "AssertionError: wrong sum of int64"))
    assert wrong.status == "problem" and "wrong sum of int64" in wrong.found


@pytest.mark.parametrize("mark", ["[{}]<stderr>:", "[1,{}]<stderr>:"])
def test_a_failed_allreduce_shows_the_ranks_and_not_the_launcher(mark):
    err = f"{mark.format(1)}AssertionError: b\n{mark.format(0)}AssertionError: a\n"
    result = judge_allreduce("gloo", failed(1, "", err + "Traceback of horovodrun\n" * 20))
    assert result.found.splitlines()[1:] == [
        "rank 0: AssertionError: a",
        "rank 1: AssertionError: b",
    ]
    silent = judge_allreduce("gloo", failed(1, "", "no free port"))
    assert silent.found.endswith("\nno free port")


def test_mpi_is_tried_when_horovod_has_it(monkeypatch):
    commands = []
    both = "rank 0 of 2: allreduce is right\nrank 1 of 2: allreduce is right"

    def fake(command, timeout_s, stdin, environ):
        commands.append(command)
        assert "OMPI_MCA_orte_default_hostfile" not in environ and timeout_s <= 120
        return DONE._replace(out=both)

    monkeypatch.setattr("app.doctor.software.run", fake)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile")
    built = Pending(lambda: (BUILT_FOR_GPU, DONE))
    results = check_allreduce(Probes(built, built), cores=1)
    assert [(r.status, r.name) for r in results] == [
        ("ok", "allreduce, gloo"),
        ("ok", "allreduce, mpi"),
    ]
    assert "--gloo" in commands[0] and "--mpi" in commands[1]
    assert any("--oversubscribe" in word for word in commands[1])


def test_only_a_whole_marked_line_is_an_answer():
    assert marked('welcome\nX {"a": 1}\nX {"a": 2}\n', "X ") == {"a": 2}
    for noise in ("", "welcome", 'X {"a": ', "X [1]", ' X {"a": 1}'):
        assert marked(noise, "X ") is None


# This machine


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
    assert judge_memory(60 * GIB, GIB).status == "warning"
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


# Hosts: what is given


def test_hosts_are_read_as_horovodrun_reads_them():
    assert parse_hosts("gpu1:4, gpu_2.lan:2,10.0.0.7") == [
        Host("gpu1", 4),
        Host("gpu_2.lan", 2),
        Host("10.0.0.7", 1),
    ]


def test_a_hostfile_is_read_in_both_forms(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\ngpu1 slots=4 max_slots=8\n\ngpu2:2  # new\ngpu3\n")
    assert parse_hostfile(path) == [Host("gpu1", 4), Host("gpu2", 2), Host("gpu3", 1)]


EVIL = [
    "-oProxyCommand=touch x",
    "--",
    "-",
    "a;touch x",
    "$(touch x)",
    "`x`",
    "a b",
    "a|b",
    "a\nb",
    "a'b",
    "a&",
    "user@host",
    "host/..",
    "ho\x00st",
    "höst",
    "",
    "host-",
    "a" * 300,
]


@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_is_no_host_name_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="is not a host name|names no host"):
        parse_hosts(f"{name}:2")
    path = tmp_path / "hosts"
    path.write_text(f"{name}\n", encoding="utf-8")
    try:
        hosts = parse_hostfile(path)
    except UserError:
        return
    # What splits at blanks and lines may leave harmless words, and only those.
    assert {host.name for host in hosts} <= {"a", "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu1:0", "'0' slots for gpu1: expected a number"),
        ("gpu1:many", "'many' slots"),
        ("gpu1:", "'' slots"),
        ("::1", "not a host name"),
        ("gpu1:2:3", "'2:3' slots"),
        ("gpu1,gpu1:2", "gpu1 is given twice"),
        ("gpu1,,gpu2", "not a host name"),
        ("", "not a host name"),
    ],
)
def test_wrong_hosts_are_told(text, message):
    with pytest.raises(UserError, match=message):
        parse_hosts(text)


def test_a_hostfile_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("# none\n")
    for name, message in (("none", "cannot be read"), ("binary", "cannot"), ("empty", "no host")):
        with pytest.raises(UserError, match=message):
            parse_hostfile(tmp_path / name)


def test_an_identity_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        make_ssh(None, tmp_path / "key")


def test_ssh_never_asks_and_takes_the_host_after_all_options():
    command = Ssh(2222, Path("/k")).command("gpu1", "-G")
    assert command[-3:] == ["-G", "--", "gpu1"]
    assert "BatchMode=yes" in command and "ConnectTimeout=5" in command
    assert command[command.index("-p") + 1] == "2222" and command[command.index("-i") + 1] == "/k"


# Hosts: what they answer


def facts_of(**changed):
    facts = {
        "python": "3.11.7",
        "packages": {"tensorflow": "2.20.0", "rich": "15.0.0"},
        "horovod_built_for": "2.20.0",
        "hostname": "gpu1",
        "addresses": ["10.0.0.1"],
        "interfaces": {"lo": "127.0.0.1", "eth0": "10.0.0.1"},
        "cores": 8,
        "gpus": 0,
        "directory": True,
        "disk_free_bytes": 50 * GIB,
        "time_s": 0.0,
    }
    return {**facts, **changed}


def test_a_host_like_this_one_is_one_ok_line():
    (result,) = judge_host("gpu1", 4, facts_of(), facts_of(), skew_s=0.4)
    assert (result.status, result.name) == ("ok", "gpu1")


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"python": "3.12.1"}, "problem", "Python 3.12.1, here 3.11.7"),
        ({"python": "3.11.9"}, "warning", "Python 3.11.9"),
        (
            {"packages": {"tensorflow": "2.19.0", "rich": "15.0.0"}},
            "problem",
            "tensorflow 2.19.0 (here 2.20.0)",
        ),
        ({"packages": {"tensorflow": "2.20.0"}}, "warning", "rich missing (here 15.0.0)"),
        ({"horovod_built_for": "2.19.0"}, "problem", "compiled for TensorFlow 2.19.0"),
        ({"gpus": 2}, "problem", "4 slots, but 2 GPU(s)"),
        ({"cores": 2}, "warning", "4 slots, but 2 core(s)"),
        ({"directory": False}, "problem", "does not exist"),
        ({"disk_free_bytes": MIB}, "warning", "0.0 GiB free"),
        ({"addresses": None}, "problem", "cannot resolve its own name"),
    ],
)
def test_each_difference_of_a_host_is_told(changed, status, words):
    (result,) = judge_host("gpu1", 4, facts_of(**changed), facts_of(), skew_s=0.0)
    assert result.status == status and words in result.found and result.advice


@pytest.mark.parametrize(("skew", "word"), [(2.0, "2.0 s ahead"), (-90.0, "90.0 s behind")])
def test_a_clock_off_by_more_than_a_second_is_a_warning(skew, word):
    (result,) = judge_host("gpu1", 1, facts_of(), facts_of(), skew_s=skew)
    assert result.status == "warning" and word in result.found


def test_a_clock_read_while_we_waited_has_no_known_skew():
    assert skew_s(100.0, 103.0, 101.0) == 0.0
    assert skew_s(100.0, 103.0, 105.0) == 2.0
    assert skew_s(100.0, 103.0, 99.0) == -4.0


ONE_HOST = {"a": {"lo": "127.0.0.1", "docker0": "172.17.0.1", "eth0": "10.0.0.1"}}


def test_a_common_interface_has_one_name_and_its_own_address_on_each_host():
    both = {**ONE_HOST, "b": {"lo": "127.0.0.1", "docker0": "172.17.0.1", "eth0": "10.0.0.2"}}
    result = judge_interfaces(both, None)
    assert result.status == "ok" and result.found.startswith("eth0 on 2 host(s)")
    assert "docker0" not in result.found
    assert judge_interfaces(both, "docker0").status == "problem"
    other = {**ONE_HOST, "b": {"lo": "127.0.0.1", "docker0": "172.17.0.1", "ens3": "10.0.0.2"}}
    result = judge_interfaces(other, None)
    assert result.status == "problem" and "b: lo, docker0, ens3" in result.found
    assert judge_interfaces(other, "eth0").status == "problem"


def test_hosts_that_share_a_name_or_know_themselves_only_as_loopback_are_told():
    second = facts_of(hostname="gpu2", interfaces={"eth0": "10.0.0.2"})
    assert statuses(judge_alike({"a": facts_of(), "b": second}, None)) == ["ok"]
    twins = judge_alike({"a": facts_of(), "b": facts_of()}, None)
    assert statuses(twins) == ["problem"] and "a, b all call themselves 'gpu1'" in twins[0].found
    local = judge_alike({"a": facts_of(), "b": {**second, "addresses": ["127.0.1.1"]}}, None)
    assert statuses(local) == ["ok", "warning"] and "on b " in local[1].found
    assert statuses(judge_alike({"localhost": facts_of(), "b": second}, None)) == ["ok", "warning"]
    assert judge_alike({}, "eth0") == []


@pytest.mark.parametrize(
    ("finished", "word"),
    [
        (failed(255, err="root@gpu1: Permission denied (publickey)."), "accept this user's key"),
        (failed(255, err="Host key verification failed."), "does not know the key"),
        (failed(255, err="mode 0644 is too open.\nPermission denied"), "may be read by others"),
        (failed(255, err="kex_exchange: reset by peer"), "reset by peer"),
        (failed(127, err="sh: python: not found"), "no Python at"),
        (failed(1, err="SyntaxError: f-string"), "its Python failed (exit code 1)"),
        (DONE, "its Python failed (no answer)"),
        (Finished("ssh is not installed", None, "", ""), "ssh is not installed"),
        (Finished("no end within 30 s", None, "", ""), "no end within 30 s"),
    ],
)
def test_why_a_host_was_not_reached_is_told(finished, word):
    result = judge_ssh("gpu1", finished)
    assert (result.status, result.name) == ("problem", "gpu1")
    assert word in result.found and result.advice


def test_one_host_that_hangs_or_breaks_does_not_hold_up_the_others(monkeypatch):
    def ask(host, *_):
        if host.name == "slow":
            time.sleep(60)
        if host.name == "broken":
            raise RuntimeError("no fork")
        return doctor_hosts.Answer(host, None, facts_of(interfaces={"eth0": "10.0.0.1"}))

    monkeypatch.setattr(doctor_hosts, "ask", ask)
    monkeypatch.setattr(doctor_hosts, "HOST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(local_facts, "gather", lambda *_: facts_of())
    started_s = time.monotonic()
    results = check_hosts(parse_hosts("slow,broken,good"))
    assert time.monotonic() - started_s < 5
    assert [(r.status, r.name) for r in results[:3]] == [
        ("problem", "slow"),
        ("problem", "broken"),
        ("ok", "good"),
    ]
    assert "no answer within" in results[0].found and "no fork" in results[1].found


# Bounds


def test_a_command_that_hangs_is_ended_with_its_children():
    started_s = time.monotonic()
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    finished = run([sys.executable, "-c", code], timeout_s=2)
    assert time.monotonic() - started_s < 10
    assert finished.failure == "no end within 2 s" and finished.out == "begun\n"


def test_a_command_that_cannot_start_is_a_failure(tmp_path):
    assert run(["no-such-program"], 5).failure == "no-such-program is not installed"
    (tmp_path / "file").write_text("")
    assert "cannot be started" in (run([str(tmp_path / "file")], 5).failure or "")
    assert "cannot be started" in (run(["a\0b"], 5).failure or "")


def test_a_command_that_crashes_says_by_which_signal():
    assert run([sys.executable, "-c", "import os; os.abort()"], 10).failure == "killed by SIGABRT"
    assert run([sys.executable, "-c", "exit(3)"], 10).failure == "exit code 3"


def test_a_check_that_breaks_or_hangs_is_a_problem_of_its_own():
    def broken():
        raise PermissionError("secret")

    (result,) = attempt("limits", Pending(broken), 5)
    assert result.status == "problem" and "PermissionError: secret" in result.found
    (result,) = attempt("limits", Pending(time.sleep, 60), 0.1)
    assert result.status == "problem" and "no answer within" in result.found


def test_a_dead_name_service_does_not_hold_up_the_facts(monkeypatch):
    monkeypatch.setattr(local_facts, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: time.sleep(60))
    started_s = time.monotonic()
    assert local_facts.gather([], os.getcwd())["addresses"] is None
    assert time.monotonic() - started_s < 5


def test_output_of_others_cannot_steer_the_terminal():
    assert tail("\x1b[31mred\x1b[0m\n\n\x07bell\x9b2J\n") == "red\n?bell?2J"
    assert len(tail("x" * 10_000)) == 300 and tail("a\n" * 100).count("\n") == 14


# The report


def test_a_problem_makes_the_exit_code_and_a_warning_does_not():
    ok, warning, problem = (Result(s, "x", "y") for s in ("ok", "warning", "problem"))
    assert exit_code([ok, warning]) == 0
    assert exit_code([ok, warning, problem]) == 1


def test_a_result_is_printed_with_its_output_and_what_to_do():
    printed = lines(
        Result("problem", "Horovod", "cannot be imported\nImportError: x", "make setup")
    )
    assert printed == [
        "problem  Horovod          cannot be imported",
        "                          | ImportError: x",
        "                          -> make setup",
    ]
