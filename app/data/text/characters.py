"""What a character is to a text: part of a word, a token of its own, a separator, or nothing.

The patterns are RE2's, and are matched after the table of `replacements`. They name scripts and
general categories, which RE2 knows, and list what it does not: emoji and invisible characters.
"""

import functools
import sys
import unicodedata

import numpy as np

LETTERS_END = 0x30000  # no code point from here on has a lower case or a decomposition
JOINER, ZERO_WIDTH_SPACE = r"\x{200D}", r"\x{200B}"
TAG = r"\x{E0020}-\x{E007F}"  # letters of the flags of regions, such as Scotland's
# Unicode's Default_Ignorable_Code_Point (UAX 44): soft hyphen, joiners, marks of direction,
# variation selectors, the byte order mark... But for three whose neighbours decide: see above.
IGNORED = (
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810)),
    *(0x200C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
    *(0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFF9)),
    *(*range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0100, 0xE01F0)),
)
# Unicode's other spaces (no-break, ideographic, ...), line ends and control characters.
SPACES = r"[\p{Z}\p{Cc}]+"
# Scripts without spaces between words, by the line-breaking class of their letters (UAX 14): ID
# and CJ; SA; AK. Tibetan is not one: it has a point between its syllables. U+30FC, the long vowel,
# counts for no script.
SPACELESS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\x{30FC}\p{Bopomofo}\p{Yi}"
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}"
    r"\p{Balinese}\p{Javanese}"
)
# With a character of theirs go its marks (vowel signs and tones, or the voicing that NFKD takes
# from a kana) and what an invisible sign puts below it: Khmer, Burmese, Tai Tham, Balinese,
# Javanese.
_STACKERS = r"\x{17D2}\x{1039}\x{1A60}\x{1B44}\x{A9C0}"
CHARACTER = rf"[{SPACELESS}](?:[{_STACKERS}][{SPACELESS}]|\p{{M}})*"
# Emoji that Unicode decomposes, and which are kept: double exclamation marks, Japanese buttons.
UNDIVIDED = (0x203C, 0x2049, 0x3297, 0x3299, *range(0x1F200, 0x1F260))
# Characters of Unicode's property Emoji, and whole blocks where most are (Miscellaneous Symbols,
# Dingbats, and all pictographs from U+1F000 on, with those to come). Not: digits, # and *, and
# letters in a circle or as a sign, such as copyright and trade mark.
_PICTOGRAPHS = (
    r"\x{203C}\x{2049}\x{2194}-\x{2199}\x{21A9}\x{21AA}\x{231A}\x{231B}\x{2328}\x{23CF}\x{23E9}-\x{23F3}"
    r"\x{23F8}-\x{23FA}\x{25AA}\x{25AB}\x{25B6}\x{25C0}\x{25FB}-\x{25FE}\x{2600}-\x{2767}"
    r"\x{2795}-\x{2797}\x{27A1}\x{27B0}\x{27BF}\x{2934}\x{2935}\x{2B05}-\x{2B07}\x{2B1B}\x{2B1C}"
    r"\x{2B50}\x{2B55}\x{3030}\x{303D}\x{3297}\x{3299}\x{1F000}-\x{1FAFF}"
)
# Spaces, and punctuation and symbols but those. The keycaps of # and * lose it, and are one token.
SEPARATORS = rf"(?:[\p{{Z}}\p{{Cc}}]|[^\P{{P}}{_PICTOGRAPHS}]|[^\P{{S}}{_PICTOGRAPHS}])+"
# A keycap, a flag (two regional indicators), or a pictograph with skin tone, tags and what it is
# joined to (UTS 51); variation selectors are gone.
EMOJI = (
    r"[0-9#*]\x{20E3}|[\x{1F1E6}-\x{1F1FF}]{2}|"
    rf"[{_PICTOGRAPHS}](?:[\x{{1F3FB}}-\x{{1F3FF}}{TAG}]|{JOINER}[{_PICTOGRAPHS}])*"
)


@functools.cache
def replacements() -> tuple[np.ndarray, np.ndarray]:
    """Code points, int32 ascending, and what they become, where it is another string.

    That is their NFKD in lower case, and nothing for ignored ones. The last code point does not
    exist, so that a search always ends at a place of the table.
    """
    hangul = range(0xAC00, 0xD7A4)
    table = {
        # Sigma has another lower case at the end of a word, which no table can see.
        code: unicodedata.normalize("NFKD", chr(code)).lower().replace("ς", "σ")
        for code in range(LETTERS_END)
        if code not in hangul and code not in UNDIVIDED
    }
    table |= dict.fromkeys(IGNORED, "")
    changing = [code for code, text in table.items() if text != chr(code)]
    texts = [table[code] for code in changing]
    return np.array([*changing, sys.maxunicode + 1], np.int32), np.array([*texts, ""], object)
