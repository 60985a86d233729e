"""The bytes of an image file to the picture that people see: turned upright as its EXIF data says,
and what is transparent on a background. Graph operations alone, so that an exported model has them.

TensorFlow's decoders know neither: they drop the EXIF data, a GIF's transparency and a PNG's colour
key, and of WebP they refuse to give 3 channels where there are 4.
"""

from collections.abc import Callable

import tensorflow as tf

# How files begin that may have alpha: a GIF, WebP or BMP, and a PNG of a kind with an alpha
# channel; and a PNG with more than its header before its pixels. \C is any byte.
MAYBE_ALPHA = rb"(?:GIF8|RIFF|BM)\C*|\CPNG\C{21}[\x04\x06]\C*"
MORE_BEFORE_PIXELS = rb"\CPNG\C{33}(?:[^I]|I[^D])\C*"
START_BYTES = 41
ORIENTATION_TAG, SHORT = 0x0112, 3


def needs_care(encoded: tf.Tensor) -> tf.Tensor:
    """Which files, strings of any shape, TensorFlow's own decoder may show otherwise than people
    see them; bool of that shape. Most files of a training set are not among them, and must not pay
    for what the others need."""
    start = tf.strings.substr(encoded, 0, START_BYTES)
    maybe_alpha = tf.strings.regex_full_match(start, MAYBE_ALPHA)
    more = tf.strings.regex_full_match(start, MORE_BEFORE_PIXELS)
    # Searching whole files takes time: the second word is looked for only where there is reason to.
    keyed = tf.cond(tf.reduce_any(more), lambda: more & _holds(encoded, rb"tRNS"), lambda: more)
    return maybe_alpha | keyed | _holds(encoded, rb"(?i)exif")


def decode_plain(encoded: tf.Tensor) -> tf.Tensor:
    """A string scalar, of a file that needs no care, to uint8 (h, w, 3)."""
    # Always three channels: TensorFlow reads only JPEG and PNG as grey.
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def decode_seen(encoded: tf.Tensor, care: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """A string scalar to uint8 (h, w, 3): the first frame, upright, on `background` (RGB).

    `care`: what `needs_care` says of it. Raises tf.errors.InvalidArgumentError for what cannot be
    decoded. Malformed EXIF data mean upright.
    """
    image = tf.cond(
        care, lambda: _decode_carefully(encoded, background), lambda: decode_plain(encoded)
    )
    return tf.ensure_shape(image, (None, None, 3))


def _holds(content: tf.Tensor, word: bytes) -> tf.Tensor:
    # RE2 looks for a word faster where it replaces it than where it matches a pattern around it.
    return tf.strings.regex_replace(content, word, b"", replace_global=False) != content


def _apart(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """The same function, called where it is needed: in the graph of the caller, every operation of
    a branch that is not taken would cost time too."""
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


@_apart
def _decode_carefully(encoded: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    readers: dict[bytes, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
        b"\xff\xd8": _jpeg,
        b"\x89P": _png,
        b"GI": _gif,
        b"RI": _webp,
        b"BM": _bmp,
    }
    start, color = tf.strings.substr(encoded, 0, 2), tf.constant(background, tf.uint8)
    number = tf.reduce_sum(
        [tf.where(start == magic, place, 0) for place, magic in enumerate(readers)]
    )
    # What begins with none of these goes to the first reader, which refuses it.
    return tf.switch_case(
        number, [lambda reader=reader: reader(encoded, color) for reader in readers.values()]
    )


@_apart
def _jpeg(encoded: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    return _upright(decode_plain(encoded), _exif_in_jpeg(encoded))


@_apart
def _png(encoded: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    # With 4 channels for all, the alpha of a palette without tRNS would be made of left-overs.
    keyed = (_number(encoded, 25, 1) % 4 != 3) & _holds(encoded, rb"tRNS")
    image = tf.cond(
        keyed,
        lambda: tf.io.decode_png(encoded, channels=4),
        lambda: tf.io.decode_png(encoded, channels=0),
    )
    has_exif = _holds(encoded, rb"eXIf")
    orientation = tf.cond(has_exif, lambda: _exif_in_png(encoded), lambda: tf.constant(1))
    return _upright(_composed(image, background), orientation)


@_apart
def _webp(encoded: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=0, expand_animations=False)
    image = tf.ensure_shape(image, (None, None, None))
    has_exif = _holds(encoded, rb"EXIF")
    orientation = tf.cond(has_exif, lambda: _exif_in_webp(encoded), lambda: tf.constant(1))
    return _upright(_composed(image, background), orientation)


@_apart
def _bmp(encoded: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    # The fourth byte of a pixel is alpha only where a header of version 3 or later says so.
    masked = (_number(encoded, 14, 4) >= 56) & (_number(encoded, 30, 4) == 3)
    alpha = masked & (_number(encoded, 28, 2) == 32) & (_number(encoded, 66, 4) == 0xFF000000)
    return tf.cond(
        alpha,
        lambda: _blended(tf.io.decode_bmp(encoded, channels=4), background),
        lambda: decode_plain(encoded),
    )


def _composed(image: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    """An image of 1 to 4 channels, uint8 (h, w, c), on a background: uint8 (h, w, 3)."""

    def opaque() -> tf.Tensor:
        return tf.broadcast_to(image, tf.concat([tf.shape(image)[:2], [3]], axis=0))

    has_alpha = tf.shape(image)[2] % 2 == 0
    return tf.cond(has_alpha, lambda: _blended(image, background), opaque)


def _blended(image: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    """The same of an image whose last channel is alpha."""
    # 16 bits hold 255 * 255 and half of 255, so this is exact, rounded to the nearest.
    color, alpha = (tf.cast(part, tf.uint16) for part in (image[..., :-1], image[..., -1:]))
    both = color * alpha + tf.cast(background, tf.uint16) * (255 - alpha) + 128
    shift = tf.bitwise.right_shift  # (x + x / 256) / 256 is x / 255, several times faster
    return tf.cast(
        shift(both + shift(both, tf.constant(8, tf.uint16)), tf.constant(8, tf.uint16)), tf.uint8
    )


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image, uint8 (h, w, c), turned and mirrored by its EXIF orientation, 1 to 8."""
    turned = tf.cond(orientation > 4, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    # Of orientations 1 to 8, those that are upside down, and those with left and right exchanged.
    down = tf.reduce_any(orientation == [3, 4, 7, 8])
    left = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.reverse(turned, tf.boolean_mask([0, 1], tf.stack([down, left])))


def _bytes(content: tf.Tensor, start: tf.Tensor | int, number: tf.Tensor | int) -> tf.Tensor:
    """int64 (number,): the bytes from `start` on; 0 for those beyond the end."""
    piece, length = _piece(content, start, number), tf.cast(number, tf.int32)
    return tf.cast(tf.io.decode_raw(piece, tf.uint8, fixed_length=length), tf.int64)


def _piece(content: tf.Tensor, start: tf.Tensor | int, number: tf.Tensor | int) -> tf.Tensor:
    """At most `number` bytes from `start` on, which may lie beyond the end."""
    start = tf.minimum(tf.cast(start, tf.int64), _length(content))
    return tf.strings.substr(content, start, tf.cast(number, tf.int64))


def _length(content: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(content), tf.int64)


def _number(
    content: tf.Tensor, start: tf.Tensor | int, width: int, big: tf.Tensor | bool = False
) -> tf.Tensor:
    """int64: the unsigned number of `width` bytes at `start`, the highest byte first if `big`."""
    return _joined(_bytes(content, start, width), big)


def _joined(parts: tf.Tensor, big: tf.Tensor | bool) -> tf.Tensor:
    """Bytes, int64 (..., width), as numbers, int64 (...)."""
    weights = [256**place for place in range(parts.shape[-1])]
    up, down = (tf.constant(order, tf.int64) for order in (weights, weights[::-1]))
    return tf.reduce_sum(parts * tf.where(big, down, up), axis=-1)


Step = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _find(content: tf.Tensor, start: int, step: Step) -> tf.Tensor:
    """int64: where the wanted part of a file begins; the end of the file if there is none.

    Args:
        start: where the first part begins.
        step: from where a part begins to whether it is the one, and where the next one begins; a
            next one that is not further on ends the search.
    """
    end = _length(content)

    def walk(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found, following = step(at)
        return tf.where(found, at, tf.where(following > at, following, end)), found

    first = (tf.constant(start, tf.int64), tf.constant(False))
    at, _ = tf.while_loop(lambda at, found: ~found & (at < end), walk, first)
    return at


@_apart
def _exif_in_jpeg(content: tf.Tensor) -> tf.Tensor:
    """The orientation in a JPEG's first APP1 segment with EXIF data; 1 if there is none."""

    def step(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = _bytes(content, at, 4)
        size = _joined(head[2:], True)
        exif = _piece(content, at + 4, 6) == b"Exif\0\0"
        # A marker may be padded with 0xFF. After 0xDA come the pixels.
        following = tf.where(head[1] == 0xFF, at + 1, at + 2 + size)
        inside = (head[0] == 0xFF) & (head[1] != 0xDA) & ((head[1] == 0xFF) | (size >= 2))
        return (head[0] == 0xFF) & (head[1] == 0xE1) & exif, tf.where(inside, following, at)

    at = _find(content, 2, step)
    return _orientation(content, at + 10, _number(content, at + 2, 2, big=True) - 8)


@_apart
def _exif_in_png(content: tf.Tensor) -> tf.Tensor:
    """The orientation in a PNG's eXIf chunk; 1 if there is none."""

    def step(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = _piece(content, at + 4, 4) == b"eXIf"
        return found, at + 12 + _number(content, at, 4, big=True)

    at = _find(content, 8, step)
    return _orientation(content, at + 8, _number(content, at, 4, big=True))


@_apart
def _exif_in_webp(content: tf.Tensor) -> tf.Tensor:
    """The orientation in a WebP's EXIF chunk; 1 if there is none."""

    def step(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = _number(content, at + 4, 4)
        return _piece(content, at, 4) == b"EXIF", at + 8 + size + size % 2

    at = _find(content, 12, step)
    size = _number(content, at + 4, 4)
    # Some programs put the first bytes of a JPEG's segment before the data.
    named = _piece(content, at + 8, 6) == b"Exif\0\0"
    skipped = tf.where(named, tf.constant(6, tf.int64), 0)
    return _orientation(content, at + 8 + skipped, size - skipped)


def _orientation(content: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """int32, 1 to 8: the orientation in `size` bytes of EXIF data (a TIFF header and directory,
    CIPA DC-008); 1 if they are malformed, or have none."""
    tiff = _piece(content, start, tf.maximum(size, 0))
    order = _piece(tiff, 0, 4)
    big = order == b"MM\0*"
    directory = _number(tiff, 4, 4, big)
    # No more than there can be: a malformed number must not ask for memory.
    entries = tf.minimum(_number(tiff, directory, 2, big), (_length(tiff) - directory - 2) // 12)
    rows = tf.reshape(_bytes(tiff, directory + 2, 12 * tf.maximum(entries, 1)), (-1, 12))
    rows = rows[: tf.maximum(entries, 0)]  # decode_raw cannot give none
    tag, kind, count, value = (
        _joined(part, big) for part in (rows[:, :2], rows[:, 2:4], rows[:, 4:8], rows[:, 8:10])
    )
    fits = (tag == ORIENTATION_TAG) & (kind == SHORT) & (count == 1) & (value >= 1) & (value <= 8)
    found = tf.concat([tf.boolean_mask(value, fits), [1]], axis=0)[0]
    return tf.cast(tf.where(big | (order == b"II*\0"), found, 1), tf.int32)


@_apart
def _gif(encoded: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    """The first frame of a GIF on its canvas. TensorFlow gives black for the transparent colour and
    no alpha; and of a file with one frame the frame alone, or black where its place is not 0, 0."""
    control, descriptor = _gif_blocks(encoded)
    global_flags, flags = _number(encoded, 10, 1), _number(encoded, descriptor + 9, 1)
    local = flags >= 128
    colors = 2 ** (tf.where(local, flags, global_flags) % 8 + 1)
    table = tf.where(local, descriptor + 10, 13)
    index, is_transparent = _number(encoded, control + 6, 1), _number(encoded, control + 3, 1) % 2
    has_one = (control > 0) & (is_transparent == 1) & (local | (global_flags >= 128))
    moved = _patched(encoded, descriptor + 1, tf.constant(bytes(4)))

    def recolored() -> tf.Tensor:
        # The same file, in which the transparent colour is the background and is not transparent.
        color = tf.strings.reduce_join(tf.gather(BYTES, tf.cast(background, tf.int32)))
        opaque = tf.gather(BYTES, _number(encoded, control + 3, 1) - 1)
        return _patched(_patched(moved, control + 3, opaque), table + 3 * index, color)

    file = tf.cond(has_one & (index < colors), recolored, lambda: moved)
    left, top, width, height = (_number(encoded, descriptor + 1 + 2 * i, 2) for i in range(4))
    frame = decode_plain(file)[:height, :width]
    right = tf.maximum(_number(encoded, 6, 2) - left - width, 0)
    bottom = tf.maximum(_number(encoded, 8, 2) - top - height, 0)
    around = [[top, bottom], [left, right], [0, 0]]
    return tf.where(tf.pad(tf.ones_like(frame, tf.bool), around), tf.pad(frame, around), background)


BYTES = [bytes([number]) for number in range(256)]


def _patched(content: tf.Tensor, at: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """`content` with other bytes from `at` on."""
    return _piece(content, 0, at) + new + _piece(content, at + _length(new), _length(content))


def _gif_blocks(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """int64: where the graphic control extension of a GIF's first image begins, 0 if it has none,
    and where the descriptor of that image does (GIF89a)."""
    end, flags = _length(content), _number(content, 10, 1)
    first = 13 + tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def walk(at: tf.Tensor, data: tf.Tensor, control: tf.Tensor) -> tuple[tf.Tensor, ...]:
        head = _bytes(content, at, 2)
        is_control = ~data & (head[0] == 0x21) & (head[1] == 0xF9)
        # An extension is its two bytes and blocks of data: a length and that many bytes, until 0.
        following = tf.where(data, at + 1 + head[0], tf.where(head[0] == 0x21, at + 2, end))
        goes_on = tf.where(data, head[0] != 0, head[0] == 0x21)
        return following, goes_on, tf.where(is_control, at, control)

    def before_image(at: tf.Tensor, data: tf.Tensor, control: tf.Tensor) -> tf.Tensor:
        return (at < end) & (data | (_number(content, at, 1) != 0x2C))

    nothing = (first, tf.constant(False), tf.constant(0, tf.int64))
    at, _, control = tf.while_loop(before_image, walk, nothing)
    return control, at
