"""Options of how a run is watched: which steps are profiled, and output for scripts."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from app.distributed.world import World
from app.errors import UserError
from app.monitor.options import ProfiledSteps, only_json
from app.monitor.profiler import Profiler


@pytest.mark.parametrize(
    ("given", "first", "last", "ranks"),
    [
        ("100:110", 100, 110, (0,)),
        ("7:7@3", 7, 7, (3,)),
        ("1:2@0,3", 1, 2, (0, 3)),
        ("1:2@all", 1, 2, None),
    ],
)
def test_steps_and_ranks_are_read(given, first, last, ranks) -> None:
    steps = ProfiledSteps.parse(given)
    assert steps == ProfiledSteps(first, last, ranks)
    assert ProfiledSteps.parse(str(steps)) == steps


@pytest.mark.parametrize("given", ["", "100", "a:b", "1:2:3", "1-2", "1:2@", "1:2@0,", "1:2@-1"])
def test_what_is_no_range_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(UserError, match=f"--profile {given}: expected.* such as 100:110"):
        ProfiledSteps.parse(given)


@pytest.mark.parametrize("given", ["0:5", "110:100"])
def test_steps_that_cannot_be_are_refused(given: str) -> None:
    with pytest.raises(UserError, match=f"--profile {given}: steps are counted from 1"):
        ProfiledSteps.parse(given)


def test_a_rank_that_there_is_not_is_refused() -> None:
    ProfiledSteps.parse("1:2@0,3").check(4)
    ProfiledSteps.parse("1:2@all").check(1)
    with pytest.raises(UserError, match="there is no rank 3; the 3 rank"):
        ProfiledSteps.parse("1:2@0,3").check(3)


def run_steps(profiler: Profiler, state: SimpleNamespace, steps: int, passes: int) -> None:
    """As the loop calls a callback."""
    work = tf.function(lambda x: tf.reduce_sum(x @ x))
    profiler.on_train_begin()
    for batch in range(steps * passes):
        profiler.on_train_batch_begin(batch)
        work(tf.ones((8, 8)))
        profiler.on_train_batch_end(batch)
        state.step += (batch + 1) % passes == 0
    profiler.on_train_end()


def recorded(path: Path) -> list[int]:
    """The step of each marked pass in a profile."""
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    found = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                if plane.event_metadata[event.metadata_id].name == "train":
                    names = {plane.stat_metadata[s.metadata_id].name: s for s in event.stats}
                    found.append(names["step_num"].int64_value)
    return sorted(found)


@pytest.mark.parametrize(
    ("given", "begins_after", "expected"),
    [("3:4", 0, [3, 3, 4, 4]), ("3:9", 3, [4, 4, 5, 5]), ("5:5", 0, [5, 5])],
)
def test_every_pass_of_the_steps_is_recorded_and_marked(
    tmp_path: Path, given: str, begins_after: int, expected: list[int]
) -> None:
    state = SimpleNamespace(step=begins_after)
    steps = ProfiledSteps.parse(given + "@1")
    for rank in (0, 1):
        state.step = begins_after
        run_steps(Profiler(steps, tmp_path, state, 2, rank), state, 5 - begins_after, passes=2)
    (found,) = tmp_path.rglob("*.pb")
    folder = f"steps-{steps.first}-{steps.last}"
    assert found == tmp_path / "plugins" / "profile" / folder / "rank-001.xplane.pb"
    assert recorded(found) == expected


def test_steps_that_never_come_are_a_warning(tmp_path: Path, caplog) -> None:
    state = SimpleNamespace(step=2)
    run_steps(Profiler(ProfiledSteps(9, 9), tmp_path, state, 1, 0), state, 3, passes=1)
    assert "--profile 9:9@0 recorded nothing: this training covered steps 3 to 5" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_profile_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog) -> None:
    (tmp_path / "plugins").write_text("in the way")
    state = SimpleNamespace(step=0)
    run_steps(Profiler(ProfiledSteps(1, 1), tmp_path, state, 1, 0), state, 2, passes=1)
    assert "the profile of rank 0 cannot be written" in caplog.text


def test_one_process_says_that_it_has_no_timeline(tmp_path: Path, caplog) -> None:
    with World().timeline(tmp_path / "timeline.json"):
        pass
    assert "one process exchanges nothing, so there is no timeline" in caplog.text
    assert not list(tmp_path.iterdir())


def test_standard_output_is_one_json_object_whatever_is_printed(capfd) -> None:
    with only_json(lambda: 0) as results:
        print("by Python")
        os.write(1, b"by a library\n")
        results.append({"loss": math.nan, "name": "\u00e9"})
    out, err = capfd.readouterr()
    assert json.loads(out) == {"loss": None, "name": "\u00e9"}
    assert "by Python" in err and "by a library" in err
    print("back")
    assert capfd.readouterr().out == "back\n"


def test_other_ranks_and_a_failed_command_print_no_json(capfd) -> None:
    with only_json(lambda: 1) as results:
        results.append({})
    with pytest.raises(ValueError), only_json(lambda: 0):
        raise ValueError
    assert capfd.readouterr().out == ""
