"""Runs for tests of the policy."""

import pytest

from tests.single.launch.policy_game import Game


@pytest.fixture
def three() -> Game:
    """Three ranks on three hosts, that train."""
    return Game(["h0", "h1", "h2"]).trains()
