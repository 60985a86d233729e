"""A show that cannot write warns and does no more; other errors are errors."""

import logging

import pytest
import tensorflow as tf

from app.monitor.lenient import Lenient
from app.monitor.progress import Show


class Board(Show):
    error: Exception | None = None

    def __init__(self):
        self.steps = []

    def agreed(self, step):
        if self.error:
            raise self.error
        self.steps.append(step)


def test_a_full_disk_is_told_once_and_what_comes_later_is_shown(caplog):
    board = Board()
    show = Lenient(lambda: board)
    for board.error in (
        tf.errors.ResourceExhaustedError(None, None, "No space left"),
        OSError("no"),
    ):
        show.agreed(1)
    board.error = None
    show.agreed(2)
    assert board.steps == [2]
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1 and "No space left; training goes on" in told[0]


def test_one_that_cannot_even_begin_shows_nothing():
    def make():
        raise OSError("no")

    Lenient(make).agreed(1)


def test_other_errors_are_raised():
    board = Board()
    board.error = ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"):
        Lenient(lambda: board).agreed(1)
