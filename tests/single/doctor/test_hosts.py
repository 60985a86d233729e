"""Hosts: how they are given, and why one was not reached."""

import time
from pathlib import Path

import pytest

from app.doctor import facts as local_facts
from app.doctor import hosts as doctor_hosts
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
from app.doctor.probe import Finished
from app.errors import UserError
from tests.single.doctor.planted import DONE, facts_of, failed


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


def test_a_clock_read_while_we_waited_has_no_known_skew():
    assert skew_s(100.0, 103.0, 101.0) == 0.0
    assert skew_s(100.0, 103.0, 105.0) == 2.0
    assert skew_s(100.0, 103.0, 99.0) == -4.0


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
