"""What the launch scripts make of what they are given, without starting anything."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.doctor.hosts import Host, Ssh, parse_hosts
from app.errors import UserError
from launch import commands, gloo, start
from launch.commands import Placement, check_safe, forwarded, mpi_command

TWO = Placement([Host("h1", 2), Host("h2", 1)])
# All that the operating system lets an argument be: no NUL.
words = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
nasty = st.sampled_from(["; touch x", "$(touch x)", "`touch x`", "a b", ":", "-x", "'", '"', "\n"])


def pair(command, flag):
    """The word after a flag."""
    return command[command.index(flag) + 1]


def mca(command):
    """name -> value of all -mca."""
    at = [index for index, word in enumerate(command) if word == "-mca"]
    return {command[index + 1]: command[index + 2] for index in at}


# Command lines


@given(st.lists(words | nasty), words)
def test_arguments_reach_the_rank_as_they_were_and_no_command_line(arguments, directory):
    environ = commands.rank_environment({"PATH": "/bin"}, TWO, arguments, directory)
    assert json.loads(environ["LOCKSTEP_ARGUMENTS"]) == arguments
    assert environ["LOCKSTEP_DIRECTORY"] == directory
    assert {"LOCKSTEP_ARGUMENTS", "LOCKSTEP_DIRECTORY"} <= set(commands.forwarded(environ))
    assert mpi_command(TWO, environ, 8, True)[-4:] == commands.RANK


@given(words | nasty, words | nasty, words | nasty)
def test_what_mpirun_splits_at_blanks_is_one_word_each(host, identity, interface):
    try:
        hosts = parse_hosts(f"{host}:1")
        check_safe(identity, interface)
    except UserError:
        return
    for word in (hosts[0].name, identity, interface):
        assert shlex.split(word) == [word] and not set(word) & set(";&|<>()$`\\\"'*?[]#\n !{}")


def test_mpirun_is_told_everything_that_ssh_and_tcp_need():
    placement = Placement(TWO.hosts, Ssh(2222, "/k"), "eth0")
    environ = {"PATH": "/bin", "SECRET": "x", "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10"}
    environ = commands.rank_environment(environ, placement, ["train"], "/w")
    command = mpi_command(placement, environ, cores=8, is_root=True)
    assert (pair(command, "-np"), pair(command, "-H")) == ("3", "h1:2,h2:1")
    assert mca(command) == {
        "pml": "ob1",
        "btl": "^openib",
        "odls_base_sigkill_timeout": "15",
        "btl_tcp_if_include": "eth0",
        "oob_tcp_if_include": "eth0",
        "plm_rsh_args": "-o ConnectionAttempts=10 -p 2222 -i /k",
    }
    assert "--allow-run-as-root" in command
    exported = {command[i + 1] for i, word in enumerate(command) if word == "-x"}
    assert {"PATH", "NCCL_SOCKET_IFNAME", "LOCKSTEP_ARGUMENTS"} <= exported
    assert "SECRET" not in exported and environ["NCCL_SOCKET_IFNAME"] == "eth0"


def test_mpirun_as_a_user_with_enough_cores_gets_no_more_than_it_needs():
    command = mpi_command(Placement([Host("localhost", 2)]), {}, cores=2, is_root=False)
    assert "--allow-run-as-root" not in command
    assert set(mca(command)) == {"pml", "btl", "odls_base_sigkill_timeout"}
    crowded = mpi_command(Placement([Host("localhost", 3)]), {}, cores=2, is_root=False)
    assert mca(crowded)["mpi_yield_when_idle"] == "1"


def test_an_agent_on_another_host_gets_no_value_on_its_command_line():
    command = gloo.over_ssh(Placement(TWO.hosts, Ssh(2222, "/k"), "eth0"), "h2")
    assert pair(command, "-p") == "2222" and pair(command, "-i") == "/k"
    assert command[-2] == "h2" and pair(command, "--") == "h2"
    words = shlex.split(command[-1])
    assert words[:2] == ["cd", str(gloo.HOME)] and words[-3:] == ["-m", "launch.rank", "-"]


def test_an_interface_without_an_address_is_told():
    assert gloo.own_address(None) == gloo.own_address("lo") == "127.0.0.1"
    with pytest.raises(UserError, match="no-such0 of this host has no IPv4 address"):
        gloo.own_address("no-such0")


def test_other_hosts_get_no_secrets_and_no_terminal():
    environ = dict.fromkeys(["PATH", "NCCL_DEBUG", "HOME", "AWS_SECRET_ACCESS_KEY", "A_TOKEN"], "x")
    assert gloo.for_other_hosts(environ) == {"PATH": "x", "NCCL_DEBUG": "x"}
    assert commands.forwarded({"LOCKSTEP_TERMINAL": "/dev/pts/0", "LOCKSTEP_X": ""}) == [
        "LOCKSTEP_X"
    ]


def test_other_hosts_get_what_chooses_gpus_and_not_what_a_container_sets():
    chosen = ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG"]
    chosen += ["NVIDIA_TF32_OVERRIDE", "TF_DETERMINISTIC_OPS"]
    of_a_container = ["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"]
    environ = dict.fromkeys([*chosen, *of_a_container], "0")
    environ = commands.rank_environment(environ, TWO, [], "/")
    assert set(chosen) <= set(forwarded(environ))
    command = mpi_command(TWO, environ, 8, False)
    exported = {command[i + 1] for i, word in enumerate(command) if word == "-x"}
    assert set(chosen) <= exported
    assert not exported & set(of_a_container)


@pytest.mark.parametrize("visible", ["GPU-8f2c", "0,MIG-1a2b"])
def test_gpus_that_only_this_host_has_are_refused_on_others(visible):
    environ = {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES={visible} .*h1 does not have.*0,1"):
        commands.check_gpus(environ, TWO.hosts, "here")
    commands.check_gpus(environ, [Host("localhost", 2), Host("here", 1)], "here")


@pytest.mark.parametrize("environ", [{}, *({"CUDA_VISIBLE_DEVICES": v} for v in ("", "-1", "0,1"))])
def test_gpus_named_by_number_are_those_of_every_host(environ):
    commands.check_gpus(environ, TWO.hosts, "here")


def test_hosts_are_not_asked_if_the_gpus_cannot_be_theirs(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2c")
    monkeypatch.setattr(start.reach, "check", lambda *_: pytest.fail("asked"))
    assert start.main(["hosts", "-H", "h1:1", "train"]) == 2
    assert "names GPUs of this host" in capsys.readouterr().err


def test_an_empty_nvidia_variable_and_the_operators_hostfile_are_not_passed_on():
    environ = {"NVIDIA_VISIBLE_DEVICES": "", "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile"}
    told = commands.rank_environment(environ, TWO, [], "/")
    assert not set(environ) & set(told)
    told = commands.rank_environment({"NVIDIA_VISIBLE_DEVICES": "all"}, TWO, [], "/")
    assert told["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_what_the_user_has_set_is_kept():
    told = commands.rank_environment({"NCCL_DEBUG": "INFO"}, TWO, [], "/")
    assert (told["NCCL_DEBUG"], told["TF_CPP_MIN_LOG_LEVEL"]) == ("INFO", "3")


def test_ranks_fill_one_host_after_the_other():
    assert TWO.host_of_rank == ["h1", "h1", "h2"]


# Arguments


def test_options_end_at_the_command():
    options = start.parse("local", ["-n", "3", "--mpi", "train", "-n", "5", "--help"])
    assert (options.ranks, options.mpi) == (3, True)
    assert options.arguments == ["train", "-n", "5", "--help"]
    options = start.parse("hosts", ["-H", "a:2", "--wait", "9", "train", "--wait"])
    assert (options.hosts, options.wait, options.mpi) == ("a:2", 9, False)
    assert options.arguments == ["train", "--wait"]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("local", [], "nothing to run"),
        ("local", ["-n", "0", "train"], "expected a whole number from 1 to 65535, got '0'"),
        ("local", ["-n", "two", "train"], "got 'two'"),
        ("local", ["-n"], "expected one argument"),
        ("local", ["--recipe", "x"], "unrecognized arguments: --recipe"),
        ("local", ["--gloo", "--mpi", "train"], "not allowed with"),
        ("hosts", ["train"], "one of the arguments -H/--hosts --hostfile --discovery"),
        ("hosts", ["-H", "a", "--discovery", "b", "train"], "one of the arguments"),
        ("local", ["--heartbeat-s", "31", "train"], "expected a whole number from 1 to 30"),
        ("hosts", ["-H", "a", "--hostfile", "b", "train"], "not allowed with"),
        ("hosts", ["-H", "a", "--wait", "-1", "train"], "--wait"),
        ("hosts", ["-H", "a", "--ssh-port", "99999", "train"], "got '99999'"),
        ("hosts", ["-H", "a"], "nothing to run"),
    ],
)
def test_a_wrong_argument_is_told(kind, arguments, message):
    with pytest.raises(UserError, match=message):
        start.parse(kind, arguments)


@pytest.mark.parametrize(
    ("visible", "gpus"), [("0,1,2", 3), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-8a, GPU-9b", 2)]
)
def test_gpus_are_counted_as_cuda_does(visible, gpus):
    assert start.visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == gpus


def test_nvidia_smi_counts_the_gpus(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'H200, 143771'\necho 'H200, 143771'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert start.visible_gpus({}) == start.default_ranks({}) == 2
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert start.default_ranks({"CUDA_VISIBLE_DEVICES": ""}) in (1, 2)
