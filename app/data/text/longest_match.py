"""Words to the ids of their longest pieces, by core TensorFlow ops.

Maximal munch: from the left, always the longest piece that fits (WordPiece: Schuster and Nakajima
2012; as in BERT, arXiv 1810.04805).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

CODE_BITS = 22
FIRST = 1 << 21  # added to the code point of a word's first character


class LongestMatch:
    """Ids of words: a word whose pieces are not all known is one `unknown`.

    Args:
        vocabulary: the pieces by id.
        prefix: what pieces begin with that go on within a word. All pieces can begin one.
        unknown: the id.
        longest_word: longer ones, in characters, are unknown.
    """

    def __init__(self, vocabulary: Sequence[str], prefix: str, unknown: int, longest_word: int):
        begin = {(True, piece): id for id, piece in enumerate(vocabulary)}
        go_on = {
            (False, piece.removeprefix(prefix)): id
            for id, piece in enumerate(vocabulary)
            if piece.startswith(prefix)
        }
        ids = begin | go_on
        # A trie: node 0 is the root, and the others are numbered by length, then by character. So
        # `keys`, the parent's number and the character, are sorted, and key i leads to node i + 1.
        prefixes = {(first, piece[:n]) for first, piece in ids for n in range(1, len(piece) + 1)}
        nodes = sorted(prefixes, key=lambda node: (len(node[1]), node))
        number = {node: i for i, node in enumerate(nodes, start=1)}
        keys = [
            number.get((first, text[:-1]), 0) << CODE_BITS
            | ord(text[-1])
            | (FIRST if first and len(text) == 1 else 0)
            for first, text in nodes
        ]
        self._keys = np.array([*keys, np.iinfo(np.int64).max])  # the last one: never found
        # The node after the last stands for places where the search has ended: it has no children.
        self._ids = np.array([-1, *(ids.get(node, -1) for node in nodes), -1], np.int32)
        self._longest_piece = max(map(len, vocabulary))
        self._unknown = unknown
        self._longest_word = longest_word

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Strings (B,), words apart by spaces, to int32 (B, ids)."""
        words = tf.strings.split(texts)
        unique, position = tf.unique(words.values)
        return words.with_values(tf.gather(self._match(unique), position)).merge_dims(1, 2)

    def _match(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Strings (words,) to int32 (words, ids)."""
        characters = tf.strings.unicode_decode(words, "UTF-8")[:, : self._longest_word + 1]
        starts = characters.row_starts()
        codes = tf.tensor_scatter_nd_add(
            tf.cast(characters.values, tf.int64),
            starts[:, None],
            tf.fill(tf.shape(starts), tf.constant(FIRST, tf.int64)),
        )
        first = codes >= FIRST
        lengths, ids = self._longest_from_each(codes)
        begins = self._reached(first, lengths)
        unknown = characters.row_lengths() > self._longest_word
        unknown |= tf.reduce_any(characters.with_values(begins & (ids < 0)), axis=1)
        whole = tf.gather(unknown, characters.value_rowids())
        kept = tf.where(whole, first, begins)
        ids = tf.where(whole, self._unknown, ids)
        counts = tf.reduce_sum(tf.cast(characters.with_values(kept), tf.int64), axis=1)
        return tf.RaggedTensor.from_row_lengths(ids[kept], counts)

    def _longest_from_each(self, codes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """For each place, how many characters the longest piece there has, and its id; int32
        (characters,). 1 and -1 without a piece.

        Walks the trie from all places at once. A match cannot leave its word: the next one begins
        with a code that is only first in a piece.
        """
        keys, known = tf.constant(self._keys), tf.constant(self._ids)
        size, ended = tf.size(codes), len(self._ids) - 1
        node = tf.zeros_like(codes)
        lengths, ids = tf.ones([size], tf.int32), tf.fill([size], -1)
        codes = tf.pad(codes, [[0, self._longest_piece]])
        for length in range(1, self._longest_piece + 1):
            key = node * 2**CODE_BITS + codes[length - 1 : length - 1 + size]
            child = tf.searchsorted(keys, key)
            found = tf.gather(keys, child) == key
            node = tf.where(found, tf.cast(child, tf.int64) + 1, ended)
            id = tf.gather(known, node)
            lengths = tf.where(id < 0, lengths, length)
            ids = tf.where(id < 0, ids, id)
        return lengths, ids

    def _reached(self, first: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Which places begin a piece, bool (characters,): those that jumps by `lengths` reach.

        From the beginnings of the words, first by one piece, then by two, four, eight... pieces.
        """
        size = tf.size(lengths)
        # One place more, behind the last character, which jumps to itself.
        jump = tf.concat([tf.range(size) + lengths, [size]], axis=0)
        begins = tf.concat([tf.cast(first, tf.int32), [0]], axis=0)
        for _ in range(self._longest_word.bit_length()):
            reached = tf.math.unsorted_segment_max(begins, jump, size + 1)
            begins = tf.maximum(begins, reached)
            jump = tf.gather(jump, jump)
        return begins[:-1] > 0
