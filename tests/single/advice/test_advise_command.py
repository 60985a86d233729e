"""What `advise` and `network` refuse, in one line, and a cluster that is not there."""

import json
from pathlib import Path

import pytest

from app.__main__ import main

CLUSTER = ["--workers", "16", "--bandwidth", "1Gbit"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["network"], "start it on several, such as launch/local.sh -n 2 network"),
        (["network", "--max-mb", "0"], "expected a whole number from 1 to 1024"),
        (["network", "--seconds", "-1"], "expected a number above 0"),
        (["advise"], "or describe a cluster with --workers and --bandwidth"),
        (["advise", "--workers", "8"], "--workers needs --bandwidth, such as 25Gbit"),
        (["advise", "--bandwidth", "1Gbit"], "--bandwidth needs --workers"),
        (["advise", "--latency", "1us"], "--latency needs --workers"),
        (["advise", "--compute-ms", "5"], "--compute-ms needs --workers"),
        (["advise", *CLUSTER, "--local-bandwidth", "9Gbit"], "--local-bandwidth needs --per-host"),
        (["advise", *CLUSTER, "--per-host", "4"], "--per-host needs --local-bandwidth"),
        (
            ["advise", *CLUSTER, "--per-host", "5", "--local-bandwidth", "9Gbit"],
            "--workers 16 cannot be dealt to hosts of 5",
        ),
        (["advise", "--workers", "8", "--bandwidth", "25"], "expected a bandwidth such as 25Gbit"),
        (["advise", *CLUSTER, "--latency", "5"], "expected a time such as 20us"),
        (["advise", *CLUSTER, "--overlap", "2"], "expected a number from 0 to 1"),
        (["advise", *CLUSTER, "--model", "no"], "--model: unknown value 'no'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], told: str, capsys) -> None:
    assert main(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: ") and streams.err.count("\n") == 1
    assert told in streams.err


def test_a_cluster_that_is_not_there(tmp_path: Path, capsys) -> None:
    host = ["--per-host", "4", "--local-bandwidth", "100Gbit", "--compute-ms", "5"]
    data = ["--dataset", "digits", "--width", "8", "--output", str(tmp_path)]
    assert main(["advise", *CLUSTER, *host, *data]) == 0
    printed = capsys.readouterr().out
    assert "16 on 4 host(s)" in printed and "5.00 ms per step (as given)" in printed
    assert "- int8: at most 8 ranks" in printed
    assert "Recommended:" in printed
    found = json.loads((tmp_path / "advice.json").read_text())
    curve = found["curves"]["none"]
    assert [workers for workers, _ in curve] == [1, 2, 4, 8, 16]
    efficiencies = [efficiency for _, efficiency in curve]
    assert efficiencies[0] == 1.0 and efficiencies == sorted(efficiencies, reverse=True)
    assert [workers for workers, _ in found["curves"]["int8"]] == [1, 2, 4, 8]
    assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_table_says_what_was_assumed(capsys) -> None:
    assert main(["advise", "--published"]) == 0
    printed = capsys.readouterr().out
    assert "VGG-16" in printed and "What was assumed" in printed
