"""The order of the data: every example once, on every rank the same number of passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.data.order import (
    Balanced,
    EpochPlan,
    Groups,
    Order,
    Shuffled,
    Windowed,
    evaluation_indices,
    orders_of,
    owners_of,
)

LENGTHS = st.integers(1, 500)
WORLDS = st.integers(1, 8)
SEEDS = st.integers(0, 2**31 - 1)

relaxed = settings(deadline=None)  # a shared machine may pause at any time


@st.composite
def plans(draw) -> EpochPlan:
    """Of every kind of source: in memory, streamed from files, with shards that differ."""
    examples, world_size = draw(LENGTHS), draw(WORLDS)
    seed, epoch = draw(SEEDS), draw(st.integers(0, 20))
    kind = draw(st.sampled_from(["memory", "stream", "label", "dirichlet"]))
    labels = np.arange(examples) % max(2, world_size)
    files = np.sort(np.arange(examples) % 7) if kind == "stream" else None
    owners = None
    if kind in ("label", "dirichlet"):
        by = "label" if kind == "label" and examples >= world_size else "dirichlet"
        owners = owners_of(labels, by, world_size, seed, alpha=0.3)
    return EpochPlan(
        order=orders_of(labels, files, False)(seed, epoch),
        global_batch_size=draw(st.integers(1, 600)),
        world_size=world_size,
        passes_per_step=draw(st.integers(1, 4)),
        examples_seen=draw(st.integers(0, examples)),
        deal="neighbours" if kind == "stream" else "round robin",
        owners=owners,
    )


def all_of(order: Order, start: int = 0) -> np.ndarray:
    return order[np.arange(start, len(order))]


def dealt(plan: EpochPlan) -> list[np.ndarray]:
    """What each rank gets, all passes together."""
    return [
        np.concatenate([np.zeros(0, int), *(share.indices for share in plan.shares(rank))])
        for rank in range(plan.world_size)
    ]


def steps_of(plan: EpochPlan) -> list[set[int]]:
    """The examples of each step, of all ranks and passes together."""
    steps: list[set[int]] = [set() for _ in range(plan.steps)]
    for rank in range(plan.world_size):
        for number, share in enumerate(plan.shares(rank)):
            steps[number // plan.passes_per_step].update(share.indices.tolist())
    return steps


@relaxed
@given(plans())
def test_every_example_that_is_to_do_comes_exactly_once(plan: EpochPlan) -> None:
    to_do = all_of(plan.order, plan.examples_seen)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt(plan))), np.sort(to_do))


@relaxed
@given(plans())
def test_all_ranks_have_the_same_passes_and_their_shares_differ_by_at_most_one(
    plan: EpochPlan,
) -> None:
    ranks = [list(plan.shares(rank)) for rank in range(plan.world_size)]
    assert {len(shares) for shares in ranks} == {plan.steps * plan.passes_per_step}
    for number, shares in enumerate(zip(*ranks, strict=True)):
        sizes = [len(share.indices) for share in shares]
        assert plan.owners is not None or max(sizes) - min(sizes) <= 1
        last = (number + 1) % plan.passes_per_step == 0
        assert all(share.last_pass == last for share in shares)


@relaxed
@given(plans())
def test_the_global_indices_of_a_pass_are_the_shares_of_all_ranks(plan: EpochPlan) -> None:
    ranks = [list(plan.shares(rank)) for rank in range(plan.world_size)]
    for shares in zip(*ranks, strict=True):
        together = np.sort(np.concatenate([share.indices for share in shares]))
        for share in shares:
            np.testing.assert_array_equal(np.sort(share.global_indices), together)


@relaxed
@given(plans(), WORLDS, st.integers(1, 4))
def test_a_step_holds_the_same_examples_at_every_world_size_and_number_of_passes(
    plan: EpochPlan, world_size: int, passes: int
) -> None:
    other = EpochPlan(
        plan.order, plan.global_batch_size, world_size, passes, examples_seen=plan.examples_seen
    )
    assert steps_of(other) == steps_of(plan)


@relaxed
@given(plans(), WORLDS, st.integers(1, 600), st.data())
def test_resuming_between_steps_in_another_world_repeats_and_skips_nothing(
    plan: EpochPlan, world_size: int, batch_size: int, data
) -> None:
    done_steps = data.draw(st.integers(0, plan.steps))
    done = set().union(*steps_of(plan)[:done_steps])
    seen = min(plan.examples_seen + done_steps * plan.global_batch_size, len(plan.order))
    resumed = EpochPlan(plan.order, batch_size, world_size, plan.passes_per_step, seen)
    rest = np.concatenate(dealt(resumed))
    assert done.isdisjoint(rest.tolist())
    assert sorted([*done, *rest.tolist()]) == sorted(
        all_of(plan.order, plan.examples_seen).tolist()
    )


@relaxed
@given(LENGTHS, SEEDS, st.integers(0, 1000))
def test_the_order_of_an_epoch_is_a_permutation_and_always_the_same(
    examples: int, seed: int, epoch: int
) -> None:
    order = all_of(Shuffled(examples, seed, epoch))
    np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    np.testing.assert_array_equal(order, all_of(Shuffled(examples, seed, epoch)))


@relaxed
@given(st.integers(50, 500), SEEDS, SEEDS, st.integers(0, 1000), st.integers(1, 1000))
def test_orders_differ_between_epochs_and_seeds(
    examples: int, seed: int, other_seed: int, epoch: int, later: int
) -> None:
    order = all_of(Shuffled(examples, seed, epoch))
    assert (order != all_of(Shuffled(examples, seed, epoch + later))).any()
    if seed != other_seed:
        assert (order != all_of(Shuffled(examples, other_seed, epoch))).any()


def test_the_order_of_a_seed_is_the_same_in_every_version_of_numpy() -> None:
    assert all_of(Shuffled(10, seed=0, epoch=0)).tolist() == [6, 0, 3, 1, 2, 5, 4, 7, 9, 8]


def test_a_batch_of_seven_is_dealt_round_robin_to_passes_and_ranks() -> None:
    plan = EpochPlan(np.arange(7) * 10, 7, world_size=2, passes_per_step=2)
    shares = [[share.indices.tolist() for share in plan.shares(rank)] for rank in range(2)]
    # pass 0 is 0 20 40 60, pass 1 is 10 30 50
    assert shares == [[[0, 40], [10, 50]], [[20, 60], [30]]]


def test_a_rank_gets_an_empty_share_of_a_batch_smaller_than_the_world() -> None:
    plan = EpochPlan(np.arange(5), 3, world_size=3)
    assert [len(share.indices) for share in plan.shares(0)] == [1, 1]
    assert [len(share.indices) for share in plan.shares(2)] == [1, 0]


def test_an_epoch_that_is_done_has_no_steps() -> None:
    plan = EpochPlan(np.arange(5), 2, world_size=2, examples_seen=5)
    assert plan.steps == 0
    assert list(plan.shares(1)) == []


@relaxed
@given(st.integers(0, 500), WORLDS)
def test_the_parts_of_an_evaluation_partition_the_split(examples: int, world_size: int) -> None:
    parts = [evaluation_indices(examples, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(examples))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_batch_size": 0},
        {"world_size": 0},
        {"passes_per_step": 0},
        {"examples_seen": 6},
        {"examples_seen": -1},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    options = {"global_batch_size": 2, "world_size": 2, **wrong}
    with pytest.raises(ValueError, match=r"at least 1|examples_seen="):
        EpochPlan(np.arange(5), **options)


@relaxed
@given(plans())
def test_positions_say_where_in_the_epoch_an_example_comes(plan: EpochPlan) -> None:
    for rank in range(plan.world_size):
        for share in plan.shares(rank):
            np.testing.assert_array_equal(plan.order[share.positions], share.indices)
            assert (share.positions >= plan.examples_seen).all()


@relaxed
@given(plans())
def test_an_example_with_an_owner_goes_to_no_other_rank(plan: EpochPlan) -> None:
    if plan.owners is not None:
        for rank, indices in enumerate(dealt(plan)):
            assert (plan.owners[indices] == rank).all()


def test_neighbours_are_dealt_so_that_a_rank_reads_few_files() -> None:
    files = np.repeat(np.arange(8), 100)
    plan = EpochPlan(Windowed(Groups(files), 0, 0), 80, 4, deal="neighbours")
    for rank in range(4):
        for share in plan.shares(rank):
            assert len(np.unique(files[share.indices])) <= 4  # of 8


@relaxed
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 100), SEEDS, st.integers(0, 20))
def test_the_order_of_files_is_a_permutation_that_stays_within_windows(
    examples: int, number: int, window: int, seed: int, epoch: int
) -> None:
    files = np.sort(np.random.default_rng(seed).integers(0, number, examples))
    files = np.random.default_rng(epoch).permutation(files) if epoch % 2 else files
    order = all_of(Windowed(Groups(files), seed, epoch, window_examples=window))
    np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    spans = [np.flatnonzero(files[order] == file) for file in np.unique(files)]
    largest = max(map(len, spans))
    assert all(span.max() - span.min() < window + largest for span in spans)


@relaxed
@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), SEEDS, st.integers(0, 20))
def test_balanced_sampling_draws_every_class_and_every_member_equally_often(
    labels: list[int], seed: int, epoch: int
) -> None:
    of = np.array(labels)
    order = all_of(Balanced(Groups(of), seed, epoch))
    assert len(order) == len(of)
    draws = np.bincount(of[order], minlength=6)[np.unique(of)]
    assert draws.max() - draws.min() <= 1
    for label in np.unique(of):
        times = np.bincount(order, minlength=len(of))[of == label]
        assert times.max() - times.min() <= 1


def test_balanced_sampling_leaves_out_others_of_a_large_class_each_epoch() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    seen = [set(all_of(Balanced(Groups(labels), 0, epoch))) for epoch in range(40)]
    assert all(len(epoch) == 60 for epoch in seen)  # 50 of the large class, all of the small
    assert set().union(*seen) == set(range(100))


def test_shards_by_label_hold_whole_classes_and_too_few_classes_are_refused() -> None:
    labels = np.arange(100) % 5
    owners = owners_of(labels, "label", 3, seed=1)
    assert all(len(np.unique(owners[labels == label])) == 1 for label in range(5))
    assert set(owners) == {0, 1, 2}
    with pytest.raises(ValueError, match="5 classes cannot be dealt to 6 ranks"):
        owners_of(labels, "label", 6, seed=1)


def test_a_small_alpha_makes_uneven_shards_and_a_large_one_even() -> None:
    labels = np.arange(10_000) % 10

    def spread(alpha: float) -> float:
        owners = owners_of(labels, "dirichlet", 4, seed=3, alpha=alpha)
        table = np.array([np.bincount(owners[labels == k], minlength=4) for k in range(10)])
        assert table.sum() == 10_000
        return float(table.std() / table.mean())

    assert spread(0.1) > 1 > 0.1 > spread(1000)
