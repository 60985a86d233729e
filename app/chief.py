"""What only the chief does, without `if rank == 0` in the story."""

from collections.abc import Callable
from typing import Any


class Nothing:
    """Stands on the other ranks for an object of the chief's: every method does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


def chief_only(world: Any, make: Callable[[], Any]) -> Any:
    """`make()` on the chief, `Nothing` elsewhere. Its methods must not call collectives."""
    return make() if world.is_chief else Nothing()
