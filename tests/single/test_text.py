"""Texts to token ids, and the batches of texts that ranks take."""

import numpy as np
import pytest
import tensorflow as tf

from app.data.batches import evaluation_batches, load_images, load_texts, training_batches
from app.data.examples import Examples
from app.data.order import EpochPlan, epoch_permutation
from app.data.text import build_vocabulary, encode, standardize

PADDING, UNKNOWN, FIRST = 0, 1, 2


def array(*texts: str) -> np.ndarray:
    return np.array(texts, dtype=object)


def numbered(lengths: list[int]) -> Examples:
    """Example i is `lengths[i]` times the word w<i>, with label i."""
    texts = [" ".join([f"w{i}"] * length) for i, length in enumerate(lengths)]
    return Examples(array(*texts), np.arange(len(lengths)))


def ids_by_example(examples: int) -> list[str]:
    return [f"w{i}" for i in range(examples)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("École ÉTÉ Straße", ["école", "été", "straße"]),
        ("ＦＵＬＬ Ｗｉｄｔｈ", ["ｆｕｌｌ", "ｗｉｄｔｈ"]),
        ("ΑΒΓ ДОМ", ["αβγ", "дом"]),
        ("don't; stop-now (please)!", ["don", "t", "stop", "now", "please"]),
        ("a «quoted» — text… £5", ["a", "quoted", "text", "5"]),
        ("one\ttwo\n three", ["one", "two", "three"]),
    ],
)
def test_texts_are_lower_cased_and_split_at_spaces_and_punctuation(
    text: str, words: list[str]
) -> None:
    assert sorted(build_vocabulary(array(text), 100, 1)) == sorted(words)
    standardized = standardize(tf.constant([text])).numpy()[0].decode()
    assert standardized.split() == words


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2009", "\u2028"])
def test_unicode_spaces_split_words_too(space: str) -> None:
    assert sorted(build_vocabulary(array(f"one{space}two"), 100, 1)) == ["one", "two"]


def test_chinese_is_split_at_its_punctuation_and_kept_whole_between() -> None:
    vocabulary = build_vocabulary(array("你好，世界。你好！"), 100, 1)
    assert vocabulary == ["你好", "世界"]
    ids = encode(array("世界，你好", "再见"), vocabulary, 1, 10)
    assert ids.to_list() == [[FIRST + 1, FIRST], [UNKNOWN]]


def test_the_vocabulary_falls_in_frequency_and_is_cut() -> None:
    texts = array("c b a", "b a", "a")
    assert build_vocabulary(texts, 100, 1) == ["a", "b", "c"]
    assert build_vocabulary(texts, 4, 1) == ["a", "b"]  # two ids are padding and unknown


def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts() -> None:
    texts = array("e d c b a", "x y z", "a c e", "z x")
    assert build_vocabulary(texts, 100, 2) == build_vocabulary(texts[::-1], 100, 2)


def test_ngrams_are_runs_of_up_to_so_many_words() -> None:
    vocabulary = build_vocabulary(array("the big cat"), 100, 2)
    assert sorted(vocabulary) == ["big", "big cat", "cat", "the", "the big"]
    ids = encode(array("Big cat"), vocabulary, 2, 10)
    expected = [FIRST + vocabulary.index(token) for token in ("big", "cat", "big cat")]
    assert ids.to_list() == [expected]


def test_an_id_is_the_place_in_the_vocabulary_and_one_for_unknown_words() -> None:
    ids = encode(array("b A new b"), ["a", "b"], 1, 10)
    assert ids.dtype == tf.int32
    assert ids.to_list() == [[FIRST + 1, FIRST, UNKNOWN, FIRST + 1]]


@pytest.mark.parametrize("text", ["", "   ", "?!", "😀"])
def test_a_text_without_a_word_is_one_unknown_token(text: str) -> None:
    assert encode(array("a", text, "a a"), ["a"], 1, 10).to_list() == [[2], [UNKNOWN], [2, 2]]


def test_texts_are_cut_at_max_tokens() -> None:
    assert encode(array("a b a b", "b"), ["a", "b"], 1, 3).to_list() == [[2, 3, 2], [3]]


def test_many_texts_are_encoded_as_few_are() -> None:
    texts = array(*(f"w{i % 7} w{i % 3}" for i in range(9000)))  # in more than one part
    vocabulary = ids_by_example(7)
    expected = [[FIRST + i % 7, FIRST + i % 3] for i in range(9000)]
    assert encode(texts, vocabulary, 1, 10).to_list() == expected


def test_training_texts_without_a_word_are_all_unknown() -> None:
    vocabulary = build_vocabulary(array("!!!", "??"), 100, 1)
    assert encode(array("!!!", "word"), vocabulary, 1, 10).to_list() == [[UNKNOWN], [UNKNOWN]]


def test_every_rank_pads_to_the_longest_text_of_the_global_batch() -> None:
    lengths = [1, 9, 2, 3, 4, 2]
    split = load_texts(numbered(lengths), ids_by_example(6), ngrams=1, cut=100)
    plan = EpochPlan(np.arange(6), 3, world_size=2)
    for rank in range(2):
        widths = [batch.inputs.shape[1] for batch in training_batches(split, plan, rank)]
        assert widths == [9, 4]


@pytest.mark.parametrize(("world_size", "passes", "seen"), [(1, 1, 0), (3, 1, 4), (2, 3, 8)])
def test_the_batches_of_a_rank_are_those_of_the_plan(
    world_size: int, passes: int, seen: int
) -> None:
    lengths = [1 + i % 5 for i in range(23)]
    split = load_texts(numbered(lengths), ids_by_example(23), ngrams=1, cut=4)
    plan = EpochPlan(epoch_permutation(23, 1, 2), 7, world_size, passes, seen)
    for rank in range(world_size):
        shares = list(plan.shares(rank))
        batches = list(training_batches(split, plan, rank))
        assert len(batches) == len(shares)
        for batch, share in zip(batches, shares, strict=True):
            np.testing.assert_array_equal(batch.labels, share.indices)
            assert int(batch.total) == len(share.global_indices)
            cut = [min(lengths[i], 4) for i in share.indices]
            np.testing.assert_array_equal(np.count_nonzero(batch.inputs, axis=1), cut)
            for row, i in zip(batch.inputs.numpy(), share.indices, strict=True):
                assert set(row[row != PADDING]) == {FIRST + i}


def test_an_empty_share_is_a_batch_of_no_rows() -> None:
    texts = load_texts(numbered([5, 2, 3, 4]), ids_by_example(4), ngrams=1, cut=100)
    pixels = np.zeros((4, 2, 3, 1), np.uint8)
    images = load_images(Examples(pixels, np.arange(4)))
    plan = EpochPlan(np.arange(4), 3, world_size=2)  # the last step has one example
    for split, shape in ((texts, (0, 4)), (images, (0, 2, 3, 1))):
        last = list(training_batches(split, plan, rank=1))[-1]
        assert last.inputs.shape == shape
        assert last.labels.shape == (0,)
        assert int(last.total) == 1


def test_images_arrive_as_they_are() -> None:
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3, 1)
    split = load_images(Examples(pixels, np.array([3, 1, 0, 2])))
    (batch,) = training_batches(split, EpochPlan(np.array([2, 0, 3, 1]), 4, 1), rank=0)
    assert batch.inputs.dtype == tf.uint8
    np.testing.assert_array_equal(batch.inputs, pixels[[2, 0, 3, 1]])
    np.testing.assert_array_equal(batch.labels, [0, 3, 2, 1])


def test_evaluation_takes_every_example_once_in_the_order_of_the_dataset() -> None:
    split = load_texts(numbered([1, 2, 3, 4, 5]), ids_by_example(5), ngrams=1, cut=100)
    labels = [
        [batch.labels.numpy().tolist() for batch in evaluation_batches(split, rank, 2, 2)]
        for rank in range(2)
    ]
    assert labels == [[[0, 2], [4]], [[1, 3]]]


def test_a_rank_without_examples_to_evaluate_has_no_batches() -> None:
    split = load_texts(numbered([1, 2]), ids_by_example(2), ngrams=1, cut=100)
    assert list(evaluation_batches(split, rank=2, world_size=3, batch_size=4)) == []
