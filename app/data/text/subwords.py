"""Sub-words: pieces trained by SentencePiece, found again by core TensorFlow ops alone.

A piece at the beginning of a word starts with the mark '▁', which is in no word itself.
"""

import bisect
import io
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from app.errors import UserError

MARK = "▁"
MOST_IDEOGRAPHS = 4  # of a piece; few Chinese words are longer
LONGEST_TRAINING_WORD = 1000  # characters; longer ones are data rather than language
CODE_POINT_BITS = 21


def train_pieces(counts: Mapping[str, int], pieces: int) -> list[str]:
    """Byte pair encoding (Sennrich et al. 2015, arXiv 1508.07909) of words and their counts.

    At most so many pieces: merged ones in the order of merging, which starts with the most
    frequent, then the single characters, the most frequent first. The order of `counts` does not
    matter. Merged ones occur at least twice and have at most `MOST_IDEOGRAPHS`: where there are
    no spaces, they would grow to whole clauses, which are learnt by heart.

    Raises:
        UserError: the words have more different characters than `pieces`.
    """
    import sentencepiece  # here: no other run, and no exported model, needs it

    words = {word: n for word, n in counts.items() if len(word) <= LONGEST_TRAINING_WORD}
    if not words:
        return []
    characters = set(MARK).union(*words)
    if len(characters) > pieces:
        raise UserError(
            f"a vocabulary of {pieces + 2} is too small for sub-words: the training texts have "
            f"{len(characters)} different characters, and each needs a place next to the two for "
            "padding and unknown. Give a vocabulary several times as large."
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{n}" for word, n in _most_frequent_first(words)),
        input_format="tsv",
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces + 1,  # it counts its own unknown piece
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        num_threads=1,  # the same pieces on every machine
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    found = [trained.id_to_piece(i) for i in range(1, trained.get_piece_size())]
    merged, single = found[: -len(characters)], found[-len(characters) :]
    repeated = merged[: _repeated(merged, words)]
    return [piece for piece in repeated if _ideographs(piece) <= MOST_IDEOGRAPHS] + single


def _ideographs(piece: str) -> int:
    """Han, Hiragana and Katakana characters."""
    return sum("\u3040" <= letter <= "\u30ff" or "\u3400" <= letter <= "\u9fff" for letter in piece)


def _repeated(pieces: Sequence[str], words: Mapping[str, int]) -> int:
    """How many of the pieces, which become rarer, are in the texts at least twice."""
    marked = [(MARK + word, number) for word, number in words.items()]

    def once(piece: str) -> bool:
        times = 0
        for word, number in marked:
            times += word.count(piece) * number
            if times > 1:
                return False
        return True

    return bisect.bisect_left(pieces, True, key=once)


def _most_frequent_first(words: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))


@keras.saving.register_keras_serializable(package="lockstep")
class LongestMatch:
    """Splits texts into words, and words into pieces from the left: always the longest that fits.

    Maximal munch, as in WordPiece (Schuster and Nakajima 2012). A character that no piece begins
    with becomes a piece of its own, which the vocabulary does not have. Words may be of any
    length: time and memory grow with the number of characters (times the logarithm of the
    longest word's).

    Args:
        pieces: the pieces, not empty strings, those at the beginning of a word with '▁'.
    """

    def __init__(self, pieces: Sequence[str]):
        self.pieces = list(pieces)
        # A trie: node 0 is the root, and the others are numbered by length, then alphabetically.
        # So `keys`, the parent's number and the character, are sorted, and key i leads to node i+1.
        prefixes = {piece[:end] for piece in pieces for end in range(1, len(piece) + 1)}
        nodes = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
        number = {"": 0} | {prefix: i for i, prefix in enumerate(nodes, start=1)}
        keys = [number[node[:-1]] << CODE_POINT_BITS | ord(node[-1]) for node in nodes]
        self._keys = np.array([*keys, np.iinfo(np.int64).max])  # the last one: never found
        known = set(pieces)
        self._is_piece = np.array([node in known for node in ["", *nodes]])
        self._longest_piece = max(map(len, pieces), default=0)

    def get_config(self) -> dict:
        return {"pieces": self.pieces}

    @classmethod
    def from_config(cls, config: dict) -> "LongestMatch":
        return cls(**config)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Strings (B,), words apart by spaces and without '▁', to ragged strings (B, pieces)."""
        words = tf.strings.split(texts)
        unique, position = tf.unique(words.values)
        pieces = self._split(tf.strings.join([MARK, unique]))
        return words.with_values(tf.gather(pieces, position)).merge_dims(1, 2)

    def _split(self, words: tf.Tensor) -> tf.RaggedTensor:
        characters = tf.strings.unicode_decode(words, "UTF-8")  # ragged (words, characters)
        lengths = self._longest_match_from_each(characters.values)
        begins = _piece_begins(lengths, characters)
        pieces = tf.RaggedTensor.from_row_starts(characters.values, tf.where(begins)[:, 0])
        pieces_by_word = tf.reduce_sum(tf.cast(characters.with_values(begins), tf.int64), axis=1)
        return tf.RaggedTensor.from_row_lengths(
            tf.strings.unicode_encode(pieces, "UTF-8"), pieces_by_word
        )

    def _longest_match_from_each(self, characters: tf.Tensor) -> tf.Tensor:
        """For each place, how many characters the longest piece there has; 1 without a piece.

        Walks the trie from all places at once, and goes on with those that found a child. A match
        cannot leave its word: the next one begins with the mark, which is only in front.
        """
        keys, is_piece = tf.constant(self._keys), tf.constant(self._is_piece)
        codes = tf.pad(tf.cast(characters, tf.int64), [[0, self._longest_piece]])
        lengths = tf.ones_like(characters)
        place = tf.range(tf.size(characters))
        node = tf.zeros_like(place, tf.int64)
        for length in range(1, self._longest_piece + 1):
            key = node * 2**CODE_POINT_BITS + tf.gather(codes, place + length - 1)
            child = tf.searchsorted(keys, key)
            found = tf.gather(keys, child) == key
            place, node = place[found], tf.cast(child[found], tf.int64) + 1
            matched = place[tf.gather(is_piece, node)]
            lengths = tf.tensor_scatter_nd_update(
                lengths, matched[:, None], tf.fill(tf.shape(matched), length)
            )
        return lengths


def _piece_begins(lengths: tf.Tensor, words: tf.RaggedTensor) -> tf.Tensor:
    """Which places begin a piece, bool (characters,): those that jumps by `lengths` reach.

    From the beginnings of the words, first by one piece, then by two, four, eight... pieces: the
    number of rounds is the logarithm of the longest word.
    """
    size = tf.size(lengths)
    # One place more, behind the last character, which jumps to itself.
    jump = tf.concat([tf.range(size) + lengths, [size]], axis=0)
    first = tf.cast(words.row_starts(), tf.int32)
    begins = tf.tensor_scatter_nd_update(
        tf.zeros(size + 1, tf.bool), first[:, None], tf.ones_like(first, tf.bool)
    )
    longest_word = tf.reduce_max(tf.concat([words.row_lengths(), [0]], axis=0))

    def double(reach, jump, begins):
        reached = jump[begins]
        begins = tf.tensor_scatter_nd_update(
            begins, reached[:, None], tf.ones_like(reached, tf.bool)
        )
        return reach * 2, tf.gather(jump, jump), begins

    *_, begins = tf.while_loop(
        lambda reach, *_: reach < longest_word,
        double,
        (tf.constant(1, tf.int64), jump, begins),
    )
    return begins[:-1]
