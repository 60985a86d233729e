"""What launch/policy.py orders and launch/elastic.py carries out."""

from __future__ import annotations

from typing import Any, NamedTuple


class Form(NamedTuple):
    """The ranks at these places are a world, in this order. `starts`: their processes start with
    it, to go on with `run` if there is one; otherwise they wait at the door for it."""

    number: int
    places: tuple[int, ...]
    starts: bool
    run: str | None


class Formed(NamedTuple):
    """All ranks of the newest world have found each other."""


class Join(NamedTuple):
    """Start a newcomer."""

    place: int
    run: str


class Tell(NamedTuple):
    """Tell a rank."""

    place: int
    message: dict[str, Any]


class Do(NamedTuple):
    """Send an agent one of the orders of launch/line.py."""

    place: int
    order: str


class Abandon(NamedTuple):
    """End an agent, which ends its rank, whether it answers or not."""

    place: int


class Say(NamedTuple):
    """Tell the user."""

    text: str


Order = Form | Formed | Join | Tell | Do | Abandon | Say
