"""A run that is killed, damaged and started again loses nothing that counted.

In more ways, and at random moments: tests/benchmarks/crashes.py. Asked to stop:
test_watched_ranks.py."""

import pytest

from tests.integration.crashing import Moment, Run
from tests.integration.undisturbed import Undisturbed

EPOCHS = ["--epochs", "3"]
# And what is done to the newest checkpoint after each kill.
KILLS = [
    (Moment("writing", commits=1), None),
    (Moment("all", commits=1), "truncate"),
    (Moment("launcher", commits=1), "flip"),
]


@pytest.mark.full_matrix
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_and_damaged_ends_as_one_that_is_not(tmp_path) -> None:
    whole = Undisturbed(tmp_path, 2, *EPOCHS)
    run = Run(tmp_path, "killed", 2, *EPOCHS)
    run.final_step = whole.final_step
    for moment, harm in KILLS:
        attempt = run.attempt(moment)
        assert attempt.kind == moment.kind, f"it ended before\n{attempt.output}"
        assert not attempt.problems, f"{moment}: {attempt.problems}\n{attempt.output}"
        assert not whole.differences(run), attempt.output
        if harm:
            assert run.damage(harm), f"nothing to damage after {moment}\n{attempt.output}"
    last = run.attempt()
    assert last.finished and not last.problems, f"{last.problems}\n{last.output}"
    assert not whole.differences_at_end(run), last.output
