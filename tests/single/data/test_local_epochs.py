"""Federated averaging's rounds: every rank passes over its own shard, all in as many steps."""

import numpy as np
import pytest

from app.data.local_epochs import LocalEpochs
from app.data.order import Shuffled, owners_of

EXAMPLES, RANKS = 101, 3


def round_of(owners: np.ndarray, passes: int = 2, batch: int = 4) -> LocalEpochs:
    orders = [Shuffled(len(owners), 5, number) for number in range(passes)]
    return LocalEpochs(orders, owners, batch, RANKS)


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_each_pass_takes_every_example_of_a_shard_once(batch: int) -> None:
    labels = np.random.default_rng(0).integers(0, 5, EXAMPLES)
    owners = owners_of(labels, "dirichlet", RANKS, seed=1, alpha=0.3)
    plan = round_of(owners, batch=batch)
    for rank in range(RANKS):
        shares = list(plan.shares(rank))
        assert len(shares) == plan.steps
        own, half = np.flatnonzero(owners == rank), len(shares) // 2
        passes = [np.concatenate([s.indices for s in p]) for p in (shares[:half], shares[half:])]
        for one in passes:
            assert sorted(one) == own.tolist()
        assert passes[0].tolist() != passes[1].tolist()  # in another order
        assert max(len(share.indices) for share in shares) <= batch
        assert all(share.last_pass for share in shares)
        positions = np.concatenate([share.positions for share in shares])
        assert len(set(positions.tolist())) == 2 * len(own)


def test_all_ranks_take_as_many_steps_as_the_largest_shard_needs() -> None:
    plan = round_of(np.repeat([0, 2], [3, 10]).astype(np.uint16))  # rank 1 has nothing
    assert plan.steps == 2 * 3
    sizes = [[len(share.indices) for share in plan.shares(rank)] for rank in range(RANKS)]
    assert sizes == [[3, 0, 0] * 2, [0] * 6, [4, 4, 2] * 2]


def test_the_global_indices_of_a_step_are_the_shares_of_all_ranks() -> None:
    plan = round_of(np.arange(EXAMPLES) % RANKS)
    for shares in zip(*(plan.shares(rank) for rank in range(RANKS)), strict=True):
        together = np.concatenate([share.indices for share in shares])
        for share in shares:
            assert share.global_indices.tolist() == together.tolist()
