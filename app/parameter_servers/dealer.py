"""Deals batches to the workers, and collects how they went, in whatever order they are done."""

import bisect
import concurrent.futures
import re
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import tensorflow as tf

from app.data.order import Share
from app.distributed.launcher import WORKER, called
from app.errors import UserError
from app.parameter_servers.coordinator import lost_server
from app.parameter_servers.serve import MARKS
from app.parameter_servers.step import Result
from app.pulse import PULSE

BEAT_S = 5.0
RETRY_S = 0.1
DRAIN_S = 10.0  # for what is under way when training fails
COMPLETIONS = 10_000  # of which the times are kept, to count those during a step


class Dealer:
    """What is under way.

    From the oldest batch that is not done to the newest that is dealt there are never more than
    `workers + max_staleness`, whether those in between are done or not. So nobody's update is late
    by more than these and those that were under way when it was dealt. With one worker and 0, each
    batch waits for the one before.

    Args:
        cluster: TensorFlow's `ClusterCoordinator`.
        workers: their number.
        max_staleness: see above, 0 or more.
        limit_s: the longest that nothing may be done.
    """

    def __init__(self, cluster: Any, workers: int, max_staleness: int, limit_s: float):
        self._cluster = cluster
        self._window = workers + max_staleness
        # One in hand, and one that waits: it reaches the worker without the coordinator's help.
        self._most = workers + min(max_staleness, workers)
        self._limit_s = limit_s
        self._pool = concurrent.futures.ThreadPoolExecutor(self._most, "results")
        self._under_way: dict[concurrent.futures.Future[Any], tuple[int, Share, float]] = {}
        self._number = 0  # of the next batch
        self._ends: deque[float] = deque(maxlen=COMPLETIONS)
        self.staleness_sum = self.staleness_max = self.results = 0
        self._lock = threading.Lock()
        self._lost: list[str] = []  # workers whose batches were dealt again
        self._watch_returns()

    @property
    def in_flight(self) -> int:
        """How many batches are dealt and not done."""
        return len(self._under_way)

    @property
    def has_room(self) -> bool:
        """Whether another batch may be dealt now."""
        oldest = min((one[0] for one in self._under_way.values()), default=self._number)
        return self.in_flight < self._most and self._number - oldest < self._window

    def deal(self, step: Any, share: Share, epoch: int, rate: float) -> None:
        """Give a batch to whichever worker is free next. `step`: of `build_step`; `rate`: to learn
        at."""
        rows, places = (tf.constant(one, tf.int64) for one in (share.indices, share.positions))
        # Not Python's numbers: TensorFlow keeps every one that it has met for ever.
        at = tf.constant(np.array(epoch, np.int64)), tf.constant(np.array(rate, np.float32))
        try:
            remote = self._cluster.schedule(step, args=(rows, places, *at))
        except (tf.errors.OpError, RuntimeError) as error:
            raise _explained(error) from error
        under_way = (self._number, share, time.monotonic())
        self._under_way[self._pool.submit(_fetched, remote)] = under_way
        self._number += 1

    def next(self) -> Result:
        """The next batch that is done; waits for it.

        Raises UserError for what a worker says is wrong with its input, or if nothing is done for
        too long; ServerLost.
        """
        began = time.monotonic()
        while True:
            done, _ = concurrent.futures.wait(
                self._under_way, BEAT_S, concurrent.futures.FIRST_COMPLETED
            )
            if done:
                break
            if time.monotonic() - began > self._limit_s:
                raise UserError(
                    f"no worker has finished a batch for {self._limit_s:.0f} s: are any left?"
                )
        # Of several, in the order in which they were dealt.
        first = min(done, key=lambda one: self._under_way[one][0])
        _, share, dealt_s = self._under_way.pop(first)
        try:
            result = Result.of(first.result())
        except (tf.errors.OpError, RuntimeError) as error:
            raise _explained(error) from error
        if result.examples != len(share.indices) or result.places != int(share.positions.sum()):
            name = called(WORKER, result.worker)
            raise RuntimeError(f"{name} trained on another batch than it was given: {result}")
        self._count(result, dealt_s)
        PULSE.beat()
        return result

    def _count(self, result: Result, dealt_s: float) -> None:
        now = time.monotonic()
        began_s = max(dealt_s, now - (result.seconds - result.input_s))
        stale = len(self._ends) - bisect.bisect(self._ends, began_s)
        self._ends.append(now)
        self.results += 1
        self.staleness_sum += stale
        self.staleness_max = max(self.staleness_max, stale)

    def drain(self) -> None:
        """Wait until nothing is under way; what it did is not counted."""
        concurrent.futures.wait(self._under_way, DRAIN_S)
        self._under_way.clear()

    def lost(self) -> list[str]:
        """The workers whose batches were dealt again since the last call, one for each batch."""
        with self._lock:
            found, self._lost = self._lost, []
        return found

    def _watch_returns(self) -> None:
        """Note what TensorFlow puts back into its queue, of which it tells nobody."""
        queue = self._cluster._cluster.closure_queue
        put_back = queue.put_back

        def noted(closure: Any) -> None:
            # The thread of a worker in the coordinator is named after it.
            index = threading.current_thread().name.rpartition("-")[2]
            with self._lock:
                self._lost.append(called(WORKER, int(index) if index.isdecimal() else 0))
            put_back(closure)

        queue.put_back = noted


def _fetched(remote: Any) -> np.ndarray:
    """The result of a batch. Its worker may be lost after the step and before the result is here:
    then the batch is dealt again, as it is while the step runs, and there will be another one."""
    while True:
        try:
            return remote.fetch()
        except tf.errors.OpError:
            if remote._error is not None:  # what TensorFlow does not try again
                raise
            time.sleep(RETRY_S)


def _explained(error: Exception) -> Exception:
    """What an error of TensorFlow means."""
    told = re.search(f"{re.escape(MARKS[0])}(.*?){re.escape(MARKS[1])}", str(error), re.DOTALL)
    if told:
        return UserError(told[1])
    return lost_server(error, "in training") or error
