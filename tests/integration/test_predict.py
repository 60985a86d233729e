"""`python -m app predict` as a user runs it: in pipes, with its exit codes."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.launching import BIN, ROOT, Finished, app, run

pytestmark = pytest.mark.full_matrix  # slow: CI runs it


@pytest.fixture(scope="module")
def texts_run(tmp_path_factory) -> Path:
    """A run on texts about good and bad things."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [f"{word} thing {n},{word}" for n in range(50) for word in ("good", "bad")]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    keys = ["--dataset", str(folder / "rows.csv"), "--model", "bag", "--width", "8"]
    keys += ["--epochs", "8", "--learning-rate", "0.05", "--run-dir", str(folder / "run")]
    done = run(app("train", *keys), timeout_s=120)
    assert done.code == 0, done.all
    return folder / "run"


@pytest.fixture(scope="module")
def images_run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("images") / "run"
    keys = ["--width", "4", "--epochs", "1", "--run-dir", str(directory)]
    done = run(app("train", *keys), timeout_s=120)
    assert done.code == 0, done.all
    return directory


def shell(command: str) -> Finished:
    """Run a line of bash, whose exit code is that of the first command in a pipe that fails."""
    return run(["bash", "-o", "pipefail", "-c", command], timeout_s=120)


def predict(*arguments: object) -> str:
    return shlex.join(app("predict", *map(str, arguments)))


def test_texts_from_a_pipe_are_classified(texts_run: Path) -> None:
    lines = shlex.quote('{"text": "a good one"}\n"a bad one"\n')
    done = shell(f"printf %b {lines} | {predict(texts_run, '-')}")
    assert (done.code, done.err) == (0, ""), done.all
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [one["input"] for one in found] == ["a good one", "a bad one"]
    assert [one["class"] for one in found] == ["good", "bad"]


def test_a_wrong_line_does_not_end_the_command(texts_run: Path) -> None:
    done = shell(f"printf 'oops\\n\"a bad one\"\\n' | {predict(texts_run, '-', '--top', 1)}")
    assert done.code == 1, done.all
    assert done.err == "1 of 2 inputs could not be predicted\n", done.all
    wrong, right = map(json.loads, done.out.splitlines())
    assert wrong["input"] == "oops" and "line 1: not valid JSON" in wrong["error"]
    assert list(right["probabilities"]) == ["bad"]


def test_each_batch_is_answered_before_the_next_is_read(texts_run: Path) -> None:
    process = subprocess.Popen(
        app("predict", str(texts_run), "-", "--batch-size", "2"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    try:
        assert process.stdin and process.stdout
        for pair in (("good", "bad"), ("bad", "good")):
            process.stdin.write("".join(f'"{text}"\n' for text in pair).encode())
            process.stdin.flush()
            answers = [json.loads(process.stdout.readline()) for _ in pair]
            assert [one["class"] for one in answers] == list(pair)
        assert process.poll() is None  # it waits for more
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_has_enough_ends_it_quietly(texts_run: Path) -> None:
    many = "yes '\"a good one\"' | head -n 200000"
    done = shell(f"({many}) 2>/dev/null | {predict(texts_run, '-')} | head -n 1")
    assert done.err == "", done.all
    assert json.loads(done.out)["class"] == "good", done.all


def test_an_output_that_is_full_is_named(texts_run: Path) -> None:
    done = shell(f"echo '\"a\"' | {predict(texts_run, '-')} > /dev/full")
    assert done.code == 2, done.all
    assert done.err == "error: cannot write to standard output: No space left on device\n"


def test_images_are_classified_into_a_file(images_run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    Image.new("L", (8, 8), 90).save(tmp_path / "folder" / "b.png")
    Image.new("RGB", (20, 10), (9, 90, 200)).save(tmp_path / "a.jpg")
    inputs = [tmp_path / "a.jpg", tmp_path / "folder", tmp_path / "gone.png"]
    output = tmp_path / "answers.jsonl"
    done = shell(predict(images_run, *inputs, "--output", output))
    assert (done.code, done.out) == (1, ""), done.all
    found = [json.loads(line) for line in output.read_text().splitlines()]
    wanted = [str(tmp_path / name) for name in ("a.jpg", "folder/b.png", "gone.png")]
    assert [one["input"] for one in found] == wanted
    assert [len(one.get("probabilities", ())) for one in found] == [10, 10, 0]
    assert found[2]["error"] == "no such file"


def test_json_lines_are_utf8_whatever_the_locale(texts_run: Path) -> None:
    lines = shlex.quote('"好 é 🎉"')
    done = shell(f"echo {lines} | LC_ALL=C PYTHONUTF8=0 {predict(texts_run, '-')}")
    assert done.code == 0, done.all
    assert json.loads(done.out)["input"] == "好 é 🎉", done.all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "a.png"], "gone holds no run"),
        (["RUN"], "required: INPUT"),
        (["RUN", "-", "-"], "'-' is given twice"),
        (["RUN", "-", "--top", "0"], "--top: expected a whole number, at least 1, got '0'"),
        (["RUN", "-", "--tpo", "1"], "unknown argument '--tpo'"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(texts_run: Path, arguments, message) -> None:
    given = [str(texts_run) if one == "RUN" else one for one in arguments]
    done = shell(predict(*given))
    assert done.code == 2, done.all
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done.all
    assert message in done.err, done.all
