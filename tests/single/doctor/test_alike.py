"""The doctor's judgement on what other hosts answered: as this one, and as each other."""

import pytest

from app.doctor.alike import judge_alike, judge_host, judge_interfaces
from tests.single.doctor.planted import MIB, facts_of, statuses


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
