"""A show whose files may be on a disk that is full or gone: that is said, and training goes on."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from app.monitor.progress import Show

LOG = logging.getLogger(__name__)


class Lenient(Show):
    """Passes everything on to the show that `make` makes; what that cannot write is left out.

    A warning tells the first time, and again when all has gone well in between.
    """

    def __init__(self, make: Callable[[], Show]):
        self._show, self._is_warned = Show(), False
        self._show = self._try(make) or self._show

    def _try(self, do: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            result = do(*arguments, **options)
        except (OSError, tf.errors.OpError) as error:
            if not self._is_warned:
                why = str(error).strip().splitlines()[0]
                LOG.warning("TensorBoard's files cannot be written: %s; training goes on", why)
            self._is_warned = True
            return None
        self._is_warned = False
        return result


def _passed_on(name: str) -> Callable[..., None]:
    @functools.wraps(getattr(Show, name))
    def method(self: Lenient, *arguments: Any, **options: Any) -> None:
        self._try(getattr(self._show, name), *arguments, **options)

    return method


for _name in [name for name in vars(Show) if not name.startswith("_")]:
    setattr(Lenient, _name, _passed_on(_name))
