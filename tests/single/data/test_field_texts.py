"""Texts as people have them: what becomes a token, and what is said where little does."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from app.__main__ import main
from app.data.text.splitting import SPLIT, STANDARDIZE
from app.data.text.vocabulary import Vocabulary, build_vocabulary

FAMILY, WOMAN_CODING = "👨\u200d👩\u200d👧", "👩🏽\u200d💻"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"

# (name, tokens, text, what they are); each gave other tokens before issue 10.
CASES: list[tuple[str, str, str, list[str]]] = [
    ("Thai with its tone marks", "words", "ดีมาก ที่นี่", ["ดี", "ม", "า", "ก", "ที่", "นี่"]),
    ("Lao", "words", "ສະບາຍດີ", ["ສ", "ະ", "ບ", "າ", "ຍ", "ດີ"]),
    ("Khmer with what stands below", "words", "ខ្មែរ", ["ខ្មែ", "រ"]),
    ("Burmese with what stands below", "words", "မင်္ဂလာပါ", ["မ", "င်္ဂ", "လာ", "ပါ"]),
    ("Javanese", "words", "ꦲꦏ꧀ꦱꦫ", ["ꦲ", "ꦏ꧀ꦱ", "ꦫ"]),
    ("Balinese", "words", "ᬅᬓ᭄ᬱᬭ", ["ᬅ", "ᬓ᭄ᬱ", "ᬭ"]),
    ("Tai Le", "words", "ᥖᥭᥰ", ["ᥖ", "ᥭ", "ᥰ"]),
    ("Yi", "words", "ꆈꌠꉙ", ["ꆈ", "ꌠ", "ꉙ"]),
    ("Thai beside Latin", "words", "ใช้Python3ดี", ["ใ", "ช้", "python3", "ดี"]),
    ("a space of no width in Thai", "words", "ดี\u200bมา", ["ดี", "ม", "า"]),
    ("a space of no width in Chinese", "characters", "你好\u200b世", ["你", "好", " ", "世"]),
    ("a space of no width behind Latin", "characters", "ab\u200bไท", ["a", "b", " ", "ไ", "ท"]),
    ("a space of no width as a character", "characters", "ជា\u200bម", ["ជ", "ា", " ", "ម"]),
    ("emoji alone", "words", "😀😀🎉", ["😀", "😀", "🎉"]),
    ("emoji in words", "words", "so good👍!", ["so", "good", "👍"]),
    ("emoji behind punctuation", "words", "what?!😱", ["what", "😱"]),
    ("a heart in both presentations", "words", "❤\ufe0f ❤ ❤\ufe0e", ["❤"] * 3),
    ("a family", "words", f"my{FAMILY}!", ["my", FAMILY]),
    ("skin tones and joiners", "words", f"👍🏽{WOMAN_CODING}", ["👍🏽", WOMAN_CODING]),
    ("flags", "words", f"🇩🇪🇫🇷{SCOTLAND}", ["🇩🇪", "🇫🇷", SCOTLAND]),
    ("keycaps", "words", "press 1\ufe0f\u20e32\ufe0f\u20e3", ["press", "1\u20e3", "2\u20e3"]),
    ("stars", "words", "★★☆", ["★", "★", "☆"]),
    ("exclamation marks as emoji", "words", "‼\ufe0f", ["‼"]),
    ("a Japanese button", "words", "🈁", ["🈁"]),
    ("emoji beside Thai", "words", "ดี👍🏽", ["ดี", "👍🏽"]),
    ("a family is a character", "characters", f"a{FAMILY}b", ["a", FAMILY, "b"]),
    ("a flag is a character", "characters", "🇩🇪🇫🇷 !", ["🇩🇪", "🇫🇷", " ", "!"]),
    ("a keycap is a character", "characters", "#\ufe0f\u20e3#", ["#\u20e3", "#"]),
    ("a space of no width in Latin", "words", "foo\u200bbar", ["foobar"]),
    ("soft hyphens", "words", "co\u00adop\u00aderate", ["cooperate"]),
    ("a byte order mark", "words", "\ufeffhello world", ["hello", "world"]),
    ("a word joiner", "words", "a\u2060b \u2060c", ["ab", "c"]),
    ("marks of direction", "words", "\u200fשלום\u200e", ["שלום"]),
    ("a non-joiner in Persian", "words", "می\u200cخواهم", ["میخواهم"]),
    ("a joiner in Hindi", "words", "क्\u200dष", ["क्ष"]),
    ("a joiner between letters and emoji", "words", "a\u200d👍\u200db", ["a", "👍", "b"]),
    ("tags outside of a flag", "words", "he\U000e0067llo", ["hello"]),
    ("invisible ones are no characters", "characters", "a\u00ad\u200b\u200db", ["a", "b"]),
    ("a variation of an ideograph", "words", "葛\U000e0100城", ["葛", "城"]),
    ("nothing but invisible ones", "words", "\u200b\u200d\ufeff\u00ad", []),
]


def array(*texts: str) -> np.ndarray:
    return np.array([*texts, None], dtype=object)[:-1]


@pytest.mark.parametrize(
    ("tokens", "text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_text_has_the_tokens_that_a_reader_sees(tokens, text, expected) -> None:
    found = SPLIT[tokens](STANDARDIZE[tokens](tf.constant([text])))
    assert [token.decode() for token in found[0].numpy()] == expected


@pytest.mark.parametrize("tokens", ["words", "characters"])
def test_texts_have_the_same_ids_alone_together_and_in_a_graph(tokens) -> None:
    texts = array(*(case[2] for case in CASES), "plain")
    vocabulary = build_vocabulary([texts], tokens, 400, 1)
    tokenizer = Vocabulary(tokens, 1, 20, vocabulary)
    together = tokenizer.encode(texts)[0].to_list()
    assert [tokenizer.encode(array(text))[0].to_list()[0] for text in texts[::6]] == together[::6]
    graph = tf.function(tokenizer.ids_of, input_signature=[tf.TensorSpec([None], tf.string)])
    assert graph(tf.constant([text.encode() for text in texts])).to_list() == together
    assert 1 not in [token for row in together[:-2] for token in row]


def test_a_letter_split_off_has_no_id_of_an_invisible_one() -> None:
    vocabulary = build_vocabulary([array("foo\u200bbar ดี\u200bมา", FAMILY)], "words", 100, 1)
    assert sorted(vocabulary) == sorted(["foobar", "ดี", "ม", "า", FAMILY])


LONG_CODE = "กขคง" * 12
CODES = ["x" * 40 + f"{i:02}" for i in range(30)]
# (name, texts, further arguments, what `data` and `train` say, what they do not)
WARNED: list[tuple[str, list[str], list[str], list[str], list[str]]] = [
    (
        "long words alone",
        CODES,
        [],
        [
            "half of the training texts have fewer than 3 tokens",
            "the median text has 42 characters",
        ],
        ["no token"],
    ),
    (
        "long words, in pairs of which runs are counted",
        [f"{code} {code}" for code in CODES],
        ["--ngrams", "3"],
        ["fewer than 3 tokens", "--tokens characters --ngrams 3"],
        ["no token"],
    ),
    (
        "punctuation alone",
        ["." * (40 + i) for i in range(30)],
        [],
        ["fewer than 3 tokens", "no token"],
        [],
    ),
    ("three words", [f"{c} {c} b" for c in CODES], ["--ngrams", "3"], [], ["half", "no token"]),
    ("short texts", [f"word{i}" for i in range(30)], [], [], ["half of the", "no token"]),
    ("long Thai", [LONG_CODE + str(i) for i in range(30)], [], [], ["half of the", "no token"]),
    ("emoji", ["😀" * (i + 1) for i in range(30)], [], [], ["half of the", "no token"]),
    ("some of dots", ["...", "a b c", "!?", "d e f"] * 8, [], ["no token"], ["half of the"]),
    ("some invisible", ["\u200b", "a b c", "d e f"] * 10, [], ["no token"], ["half of the"]),
    ("characters", CODES, ["--tokens", "characters"], [], ["half of the", "no token"]),
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[str]], Path]:
    """Makes a file of texts with two labels in turn."""

    def write(texts: list[str]) -> Path:
        rows = [{"text": text, "label": f"l{i // 2 % 2}"} for i, text in enumerate(texts)]
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("texts", "more", "said", "not_said"), [case[1:] for case in WARNED], ids=[c[0] for c in WARNED]
)
def test_data_says_where_little_was_found_in_texts(
    write, capsys, texts, more, said, not_said
) -> None:
    assert main(["data", str(write(texts)), *more]) == 0
    found = capsys.readouterr().out
    assert all(part in found for part in said), found
    assert not any(part in found for part in not_said), found


def test_data_counts_the_texts_without_a_token_in_each_split_and_names_the_first(
    write, capsys
) -> None:
    path = write(["?!", "a b c", "d e f", "..."] * 10)
    assert main(["data", str(path), "--test", "0.2", "--validation", "0"]) == 0
    found = capsys.readouterr().out
    assert "  train      0, 3, 3, 3;" in found
    counts = re.findall(r"(\d+) texts of the (train|test) split have no token", found)
    assert [name for _, name in counts] == ["train", "test"]
    assert sum(int(number) for number, _ in counts) == 20
    assert found.count("the first: ") == 2 and "texts.jsonl, line 1\n" in found


@pytest.mark.parametrize("hold", ["memory", "stream"])
def test_a_run_says_where_little_was_found_in_texts(write, tmp_path, capsys, hold) -> None:
    source = write([*CODES, "?!", "...", "a", "b", *CODES])
    if hold == "stream":
        copy = tmp_path / "copy"
        assert main(["data", str(source), "--export", "tfrecord", str(copy)]) == 0
        source = copy
    keys = ["--dataset", str(source), "--hold", hold, "--model", "bag", "--epochs", "1"]
    keys += ["--per-rank-batch-size", "8", "--run-dir", str(tmp_path / "run")]
    assert main(["train", *keys]) == 0
    found = " ".join(capsys.readouterr().out.split())
    assert "no token 2 texts, which the model cannot tell apart" in found
    assert "warning half of the training texts have fewer than 3 tokens" in found
