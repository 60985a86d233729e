"""What the tests of checkpoints ask of a state."""

import numpy as np
import pytest

from app.checkpoints.checkpoint import SAVED, Checkpoints
from app.errors import UserError
from app.state import TrainState


def values(state: TrainState, kinds=SAVED) -> dict[str, np.ndarray]:
    return {e.path: e.variable.numpy() for e in state.entries if e.kind in kinds}


def assert_equal_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for path in left:
        assert left[path].dtype == right[path].dtype
        assert left[path].tobytes() == right[path].tobytes(), path


def restore_message(checkpoints: Checkpoints, state: TrainState) -> str:
    before = values(state)
    with pytest.raises(UserError) as caught:
        checkpoints.restore_latest(state)
    assert_equal_bits(values(state), before)
    return str(caught.value)
