"""Predictions of texts: those of evaluation, and what is wrong with each row in its place."""

import json
from pathlib import Path

import numpy as np
import pytest

from app.commands.saved_run import open_run
from app.distributed.world import World
from app.evaluation.evaluate import evaluate
from tests.single.commands.predicting import answers, confusion, errors, loss, own_data, trained

pytestmark = pytest.mark.full_matrix  # slow: CI runs it

PYDOCS = {"dataset": "pydocs", "model": "textcnn", "width": 16, "epochs": 3, "max_tokens": 40}
PYDOCS |= {"vocabulary_size": 3000, "learning_rate": 0.04, "global_batch_size": 128}


@pytest.fixture(scope="module")
def pydocs(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "pydocs", **PYDOCS)


def test_texts_are_predicted_as_in_evaluation(pydocs: Path, tmp_path: Path) -> None:
    run = open_run(pydocs)
    data = own_data(run)
    source = data.dataset.splits["test"]
    scores = evaluate(run.classifier, data.splits["test"], World()).first
    texts = source.read(np.arange(len(source)))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for batch_size in (7, 64):
        code, found = answers(tmp_path, pydocs, path, batch_size=batch_size)
        assert (code, [one["input"] for one in found]) == (0, list(texts))
        assert np.array_equal(confusion(found, source.labels, run.class_names), scores.confusion)
        assert loss(found, source.labels, run.class_names) == pytest.approx(scores.loss, abs=1e-5)
    assert 0.4 < scores.accuracy < 1


def test_the_texts_beside_it_do_not_change_a_prediction(pydocs: Path, tmp_path: Path) -> None:
    texts = ["open a socket", "x", "parse " * 60, "read the compressed file and close it"]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    together = answers(tmp_path, pydocs, path)[1]
    alone = answers(tmp_path, pydocs, path, batch_size=1)[1]
    for one, other in zip(together, alone, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_every_format_of_texts_gives_the_same(pydocs: Path, tmp_path: Path) -> None:
    texts = ["open, read and close a file", 'say "hello" to the server', "日本 é 🎉"]
    lines = {
        "a.txt": texts,
        "a.jsonl": [json.dumps({"x": 1, "text": text}) for text in texts],
        "a.ndjson": [json.dumps(text) for text in texts],
        "a.tsv": ["n\ttext", *(f"{n}\t{text}" for n, text in enumerate(texts))],
        "a.csv": ["text,n", *('"' + t.replace('"', '""') + '",1' for t in texts)],
    }
    for name, content in lines.items():
        (tmp_path / name).write_text("\ufeff" + "\r\n".join(content) + "\r\n\r\n", "utf-8")
    code, found = answers(tmp_path, pydocs, *(tmp_path / name for name in lines))
    assert (code, [one["input"] for one in found]) == (0, texts * len(lines))
    for number, one in enumerate(found):
        same = found[number % len(texts)]["probabilities"]
        assert one["probabilities"] == pytest.approx(same, abs=1e-6)


def test_what_is_wrong_with_a_row_is_said_in_its_place(pydocs: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [b'"fine"', b"{bad", b'{"txt": "a"}', b"7", b'""', b"", b'"\\ud800"', b'"\xff"', b'"x"']
    path.write_bytes(b"\n".join(rows) + b"\n\n\n")
    code, found = answers(tmp_path, pydocs, path, batch_size=3)
    assert code == 1
    expected = 'expected {"text": "..."} or a string'
    cp1252 = ", with: iconv -f cp1252 -t UTF-8 if it comes from Windows or Excel; or train with "
    assert errors(found)[1:-1] == [
        f"{path}, line 2: not valid JSON: Expecting property name enclosed in double quotes "
        f"at column 2: {expected}",
        f"{path}, line 3: no key 'text'; it has 'txt'",
        f"{path}, line 4: {expected}; got int",
        f"{path}, line 5: empty",
        f"{path}, line 7: not UTF-8 text (\\ud800 is half a character)",
        f"{path}, line 8: not UTF-8 text (byte 0xff): convert the file to UTF-8{cp1252}"
        "--encoding cp1252",
    ]
    assert "class" in found[0] and "class" in found[-1]
    given = [one["input"] for one in found]
    texts = [row.decode("utf-8", "surrogateescape") for row in rows[1:-1] if row]
    assert given == ["fine", *texts, "x"]  # a blank line is no row


def test_files_of_texts_that_cannot_be_read_are_errors(pydocs: Path, tmp_path: Path) -> None:
    files = {
        "table.csv": b"txt,n\na,1\n",
        "short.csv": b"text,n\nfine,1\nonly\n",
        "quote.csv": b'text\nfine\n"no end\n',
        "wide.txt": "text".encode("utf-16"),
        "empty.txt": b"",
        "a.pdf": b"%PDF",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    inputs = [*(tmp_path / name for name in files), tmp_path, tmp_path / "gone.txt"]
    code, found = answers(tmp_path, pydocs, *inputs)
    assert code == 1
    reasons = [one["error"] for one in found if "error" in one]
    assert len(found) == len(inputs) + 2  # the two good rows
    assert "table.csv has no column 'text': did you mean 'txt'?" in reasons[0]
    assert "short.csv, line 3: 1 fields, but the header has 2" in reasons[1]
    assert "quote.csv, line 3: not valid CSV" in reasons[2]
    assert "wide.txt is not UTF-8 text but UTF-16" in reasons[3]
    assert reasons[4].endswith("empty.txt is empty")
    assert "a.pdf: expected a file that ends with .txt, .csv, .tsv" in reasons[5]
    assert reasons[6].endswith("it is a folder")
    assert reasons[7] == f"no file {tmp_path}/gone.txt"


def test_the_input_key_of_the_run_is_a_key_too(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    rows = [f"{word} {n},{word}" for n in range(30) for word in ("good", "bad")]
    table.write_text("\n".join(["review,label", *rows]))
    run = trained(
        tmp_path / "run", dataset=str(table), input_key="review", model="bag", width=4, epochs=1
    )
    (tmp_path / "a.csv").write_text("text,review\nno,good one\n")
    (tmp_path / "b.jsonl").write_text('{"review": "good one"}\n{"text": "bad one"}\n')
    code, found = answers(tmp_path, run, tmp_path / "a.csv", tmp_path / "b.jsonl")
    assert (code, [one["input"] for one in found]) == (0, ["good one", "good one", "bad one"])
