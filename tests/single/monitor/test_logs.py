"""What is kept in a rank's log, and what of it reaches the screen."""

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.distributed.world import World
from app.monitor import logs
from app.monitor.rank_log import keep_logs

LINE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d rank 7 [A-Z]+ [\w.]+: .+"


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """A test that collects logs does not do so for the next."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    logs.stop()


def lines(directory: Path, rank: int = 7) -> list[str]:
    return (directory / "logs" / f"rank-{rank:03d}.log").read_text(encoding="utf-8").splitlines()


def test_what_came_before_the_directory_was_known_is_kept_first(tmp_path: Path) -> None:
    logs.start(7)
    logs.STORY.info("one")
    warnings.warn("two", RuntimeWarning, stacklevel=1)
    assert logs.keep(tmp_path, 7) is None
    logs.STORY.info("three")
    logging.getLogger("tensorflow").warning("four")
    found = lines(tmp_path)
    assert all(re.fullmatch(LINE, line) for line in found)
    ends = [("lockstep: ", "one"), ("py.warnings: ", "two"), ("lockstep: ", "three")]
    for line, (name, text) in zip(found, [*ends, ("tensorflow: ", "four")], strict=True):
        assert name in line and text in line


def test_a_resumed_run_adds_to_its_log(tmp_path: Path) -> None:
    for text in ("first", "second"):
        logs.start(7)
        logs.keep(tmp_path, 7)
        logs.STORY.info(text)
    assert [line[-6:] for line in lines(tmp_path)] == [" first", "second"]


def test_rank_0_shows_the_same_warning_once(tmp_path: Path, capsys) -> None:
    logs.start(0)
    logs.keep(tmp_path, 0)
    for _ in range(3):
        warnings.warn("slow", RuntimeWarning, stacklevel=1)
        logging.getLogger("absl").warning("odd")
    logging.getLogger("absl").warning("odder")
    logs.STORY.info("progress has a place of its own")
    shown = capsys.readouterr()
    assert shown.out == ""
    first, *rest = shown.err.splitlines()
    assert re.fullmatch(r"warning: RuntimeWarning: slow \(.*test_logs.py:\d+\)", first)
    assert rest == ["warning: odd", "warning: odder"]
    assert len(lines(tmp_path, 0)) == 4


@pytest.mark.parametrize("options", [{"rank": 3}, {"rank": 0, "quiet": True}])
def test_other_ranks_and_a_quiet_one_show_errors_alone(options, tmp_path: Path, capsys) -> None:
    logs.start(**options)
    logs.keep(tmp_path, 7)
    warnings.warn("slow", RuntimeWarning, stacklevel=1)
    for _ in range(2):
        logging.getLogger("tensorflow").error("broken")
    assert capsys.readouterr().err == "error: broken\n" * 2
    assert len(lines(tmp_path)) == 3


def test_a_rank_that_cannot_write_its_log_says_why_and_goes_on(tmp_path: Path, capsys) -> None:
    (tmp_path / "logs").write_text("in the way")
    logs.start(0)
    reason = logs.keep(tmp_path, 0)
    assert reason and "rank-000.log: " in reason
    logging.getLogger("tensorflow").warning("still shown")
    assert capsys.readouterr().err == "warning: still shown\n"


def test_training_goes_on_where_logs_cannot_be_kept_with_one_warning(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "logs").write_text("in the way")
    logs.start(0)
    world = World()
    monkeypatch.setattr(world, "gather", lambda reason: [None, reason, reason])
    keep_logs(tmp_path, world)
    assert "warning: 2 rank(s) cannot keep a log; the first: " in capsys.readouterr().err


def test_the_story_is_not_on_the_screen_of_a_script_without_logs(capsys) -> None:
    logs.STORY.error("only for files")
    assert capsys.readouterr() == ("", "")


def test_a_rank_that_becomes_another_goes_on_in_the_log_of_that(tmp_path: Path) -> None:
    logs.start(8)
    logs.keep(tmp_path, 8)
    logs.STORY.info("one")
    logs.become(tmp_path, 7)
    logs.STORY.info("two")
    before, now = lines(tmp_path, 8), lines(tmp_path, 7)
    assert [line.rpartition(": ")[2] for line in before] == [
        "one",
        "goes on as rank 7, in that rank's log",
    ]
    assert [line.rpartition(": ")[2] for line in now] == ["two"]
    assert all(re.fullmatch(LINE, line) for line in now)


def test_a_rank_that_stays_what_it_is_goes_on_in_its_log(tmp_path: Path) -> None:
    logs.start(7)
    logs.keep(tmp_path, 7)
    logs.become(tmp_path, 7)
    logs.STORY.info("one")
    assert [line.rpartition(": ")[2] for line in lines(tmp_path)] == ["one"]


def test_a_newcomer_keeps_what_it_said_outside_in_the_log_of_its_first_rank(tmp_path: Path) -> None:
    logs.start(1)
    logs.STORY.info("outside")
    logs.become(tmp_path, 7)
    logs.STORY.info("inside")
    assert [line.rpartition(": ")[2] for line in lines(tmp_path)] == [
        "outside",
        "goes on as rank 7, in that rank's log",
        "inside",
    ]


def test_the_screen_shows_the_warnings_of_whoever_is_rank_0_now(tmp_path: Path, capsys) -> None:
    logs.start(1)
    logging.getLogger("absl").warning("as rank 1")
    logs.become(tmp_path, 0)
    logging.getLogger("absl").warning("as rank 0")
    logs.become(tmp_path, 1)
    logging.getLogger("absl").warning("as rank 1 again")
    logs.become(tmp_path, 0, quiet=True)
    logging.getLogger("absl").warning("quietly")
    logging.getLogger("absl").error("in any case")
    assert capsys.readouterr().err == "warning: as rank 0\nerror: in any case\n"
