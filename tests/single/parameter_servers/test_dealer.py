"""What is dealt when, with a cluster that does what the test says."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from app.data.order import Share
from app.errors import ServerLost, UserError
from app.parameter_servers.dealer import Dealer


class Remote:
    def __init__(self):
        self._done = threading.Event()
        self._outcome = None

    def finish(self, outcome, is_final=True):
        self._outcome, self._is_final = outcome, is_final
        self._done.set()

    @property
    def _error(self):
        return self._outcome if self._is_final else None

    def fetch(self):
        self._done.wait(20)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return np.array(self._outcome, np.float64)


class Queue:
    def __init__(self):
        self.returned = []

    def put_back(self, closure):
        self.returned.append(closure)


class Cluster:
    """Stands for TensorFlow's ClusterCoordinator; keeps what is scheduled."""

    def __init__(self):
        self._cluster = self
        self.closure_queue = Queue()
        self.dealt = []

    def schedule(self, step, args):
        remote = Remote()
        self.dealt.append((remote, [one.numpy() for one in args]))
        return remote

    def finish(self, number, worker=0, examples=2, outcome=None):
        remote, (_, places, *_) = self.dealt[number]
        whole = [worker, 0.0, 0.0, 0.5, 1.0, examples, places.sum(), -1]
        remote.finish(whole if outcome is None else outcome)


@pytest.fixture
def cluster():
    return Cluster()


def share(number):
    places = np.array([2 * number, 2 * number + 1])
    return Share(places + 100, places, places + 100, True)


def deal(dealer, cluster):
    dealer.deal("step", share(len(cluster.dealt)), 0, 0.1)


def dealt_at_once(dealer, cluster):
    """Deal as much as there is room for; how many batches that was."""
    before = len(cluster.dealt)
    while dealer.has_room:
        deal(dealer, cluster)
    return len(cluster.dealt) - before


def test_with_one_worker_and_no_staleness_each_batch_waits_for_the_one_before(cluster):
    dealer = Dealer(cluster, 1, 0, 5)
    for number in range(3):
        assert dealt_at_once(dealer, cluster) == 1
        cluster.finish(number)
        assert dealer.next().loss == 0.5
    assert dealer.staleness_max == 0


@pytest.mark.parametrize(("workers", "staleness", "at_once"), [(3, 0, 3), (3, 2, 5), (2, 9, 4)])
def test_so_many_are_under_way(cluster, workers, staleness, at_once):
    assert dealt_at_once(Dealer(cluster, workers, staleness, 5), cluster) == at_once


def test_a_slow_batch_stops_the_others_when_they_are_too_far_ahead(cluster):
    dealer = Dealer(cluster, 2, 3, 5)
    dealt_at_once(dealer, cluster)
    for number in range(1, 5):  # 0 is slow: up to number 4 is at most 2 + 3 - 1 ahead
        cluster.finish(number, worker=1)
        dealer.next()
        dealt_at_once(dealer, cluster)
    assert len(cluster.dealt) == 5 and dealer.in_flight == 1
    cluster.finish(0)
    dealer.next()
    assert dealt_at_once(dealer, cluster) == 4


def test_what_is_done_comes_in_any_order_and_says_whose_it_is(cluster):
    dealer = Dealer(cluster, 3, 0, 5)
    dealt_at_once(dealer, cluster)
    cluster.finish(2, worker=2)
    assert dealer.next().places == share(2).positions.sum()
    cluster.finish(0, worker=1)
    cluster.finish(1)
    assert sorted(dealer.next().worker for _ in range(2)) == [0, 1]


def test_a_batch_is_given_by_its_indices_and_places_with_its_rate(cluster):
    dealer = Dealer(cluster, 1, 0, 5)
    dealer.deal("step", share(4), 3, 0.25)
    rows, places, epoch, rate = cluster.dealt[0][1]
    assert rows.tolist() == [108, 109] and places.tolist() == [8, 9]
    assert (epoch, rate) == (3, np.float32(0.25))


def test_updates_during_a_step_are_its_staleness(cluster):
    dealer = Dealer(cluster, 2, 9, 5)
    dealt_at_once(dealer, cluster)
    for number in (1, 2):
        cluster.finish(number, worker=1)
        dealer.next()
    cluster.finish(0, outcome=[0, 0.0, 60.0, 0.5, 1.0, 2, 1, -1])  # it took a minute
    dealer.next()
    assert dealer.staleness_max == 2 and dealer.staleness_sum == 2


def test_another_batch_than_was_dealt_is_an_error(cluster):
    dealer = Dealer(cluster, 1, 0, 5)
    deal(dealer, cluster)
    cluster.finish(0, outcome=[0, 0.0, 0.1, 0.5, 1.0, 2, 77, -1])
    with pytest.raises(RuntimeError, match="worker 0 trained on another batch"):
        dealer.next()


def test_what_a_worker_says_is_wrong_with_its_input_is_the_users(cluster):
    dealer = Dealer(cluster, 1, 0, 5)
    deal(dealer, cluster)
    text = "2 root error(s) found. RuntimeError: <<lockstep: worker 1: a.png is gone :lockstep>> x"
    cluster.finish(0, outcome=tf.errors.UnknownError(None, None, text))
    with pytest.raises(UserError, match="^worker 1: a.png is gone$"):
        dealer.next()


def test_a_lost_server_is_told_from_another_error(cluster):
    dealer = Dealer(cluster, 2, 0, 5)
    dealt_at_once(dealer, cluster)
    text = "GRPC error information from remote target /job:ps/replica:0/task:0"
    cluster.finish(0, outcome=tf.errors.UnavailableError(None, None, text))
    with pytest.raises(ServerLost, match="a parameter server was lost in training"):
        dealer.next()
    cluster.finish(1, outcome=tf.errors.InvalidArgumentError(None, None, "shapes"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="shapes"):
        dealer.next()


def test_a_result_that_is_lost_with_its_worker_comes_from_another(cluster):
    dealer = Dealer(cluster, 2, 0, 5)
    deal(dealer, cluster)
    text = "failed to connect to all addresses: /job:worker/replica:0/task:0"
    lost = tf.errors.UnavailableError(None, None, text)
    cluster.dealt[0][0].finish(lost, is_final=False)
    threading.Timer(0.3, lambda: cluster.finish(0, worker=1)).start()
    assert dealer.next().worker == 1


def test_nothing_done_for_too_long_is_an_error(cluster, monkeypatch):
    monkeypatch.setattr("app.parameter_servers.dealer.BEAT_S", 0.05)
    dealer = Dealer(cluster, 1, 0, 0.2)
    deal(dealer, cluster)
    began = time.monotonic()
    with pytest.raises(UserError, match="no worker has finished a batch"):
        dealer.next()
    assert time.monotonic() - began < 5
    cluster.finish(0)  # or the thread would wait on


def test_a_batch_that_is_dealt_again_is_counted(cluster):
    dealer = Dealer(cluster, 2, 0, 5)
    lost = threading.Thread(
        target=lambda: cluster.closure_queue.put_back("it"), name="WorkerClosureProcessingLoop-1"
    )
    lost.start()
    lost.join()
    assert cluster.closure_queue.returned == ["it"]
    assert dealer.lost() == ["worker 1"] and dealer.lost() == []
