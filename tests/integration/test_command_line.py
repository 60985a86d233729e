"""The command line as a user runs it: what it prints, leaves behind, and refuses."""

import csv
import json
import re
import shutil
import sys

import pytest

from tests.integration.launching import ROOT, app, horovodrun, run

TRANSPORTS = ["gloo", pytest.param("mpi", marks=pytest.mark.full_matrix)]
DIGITS = ["train", "--recipe", "launch/recipes/digits.toml", "--epochs", "1"]


@pytest.fixture
def texts(tmp_path):
    """A CSV file of 40 short texts with two labels."""
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        rows = [
            (f"good day number {i}", "yes") if i % 2 else (f"bad, {i}", "no") for i in range(40)
        ]
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_one_process_trains_without_a_launcher(tmp_path):
    done = run(app(*DIGITS, "--run-dir", str(tmp_path / "run")), timeout_s=120)
    assert done.code == 0, done.all
    assert done.err == "", done.all
    for word in ("digits", "cnn", "1 rank(s)", "test accuracy", "examples/s", "tensorboard --log"):
        assert word in done.out, done.all
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["world_size"] == 1


def test_local_sh_trains_on_two_ranks_resumes_and_prints_once(tmp_path):
    directory = str(tmp_path / "run")
    first = run(["launch/local.sh", "-n", "2", *DIGITS, "--run-dir", directory], timeout_s=150)
    assert first.code == 0, first.all
    assert first.out.count("test accuracy") == 1, first.all
    assert "<stdout>" not in first.out, first.all
    assert first.err == "", first.all
    again = ["train", "--recipe", f"{directory}/config.toml", "--resume", "--epochs", "2"]
    second = run(["launch/local.sh", "-n", "2", *again], timeout_s=150)
    assert second.code == 0, second.all
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch"] == 2
    assert "2, from 1" in second.out, second.all


def test_a_csv_file_trains_under_mpi(tmp_path, texts):
    if shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    train = ["train", "--dataset", str(texts), "--model", "textcnn", "--width", "8"]
    train += ["--epochs", "2", "--per-rank-batch-size", "4", "--run-dir", str(tmp_path / "run")]
    done = run(horovodrun(2, "mpi", *app(*train)), timeout_s=150)
    assert done.code == 0, done.all
    described = json.loads((tmp_path / "run" / "data_plan" / "plan.json").read_text())
    assert described["class_names"] == ["no", "yes"]
    assert "good" in described["tokenizer"]["vocabulary"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--epoch", "3"], "unknown argument '--epoch': did you mean '--epochs'?"),
        (["train", "--model", "resnet19"], "--model: unknown value 'resnet19'"),
        (["train", "--dataset", "digitz"], "unknown dataset 'digitz': did you mean 'digits'?"),
        (["train", "--recipe", "launch/recipes/digit.toml"], "did you mean 'launch/recipes/dig"),
        (["train", "--model", "bag"], "model 'bag' does not read images"),
        (["train", "--per-rank-batch-size", "5000"], "more than the 1294 training examples"),
        (["train", "--dataset", "missing.csv"], "no file missing.csv"),
        (["train", "--run-dir", "pyproject.toml/x"], "cannot write the run directory"),
        (["train", "--dataset", "mnist", "--data-dir", "pyproject.toml/x"], "cannot be written"),
        (["train", "--resume", "--recipe", "launch/recipes/digits.toml"], "needs --run-dir"),
        (["train", "--profile", "9:1"], "--profile 9:1: steps are counted from 1"),
        (["train", "--profile", "1:9@1"], "there is no rank 1; the 1 rank(s)"),
        (["tran"], "unknown command 'tran': did you mean 'train'?"),
    ],
)
def test_a_mistake_ends_with_one_message_and_code_2(arguments, message):
    done = run(app(*arguments), timeout_s=60)
    assert done.code == 2, done.all
    assert message in done.err, done.all
    assert len(done.err.strip().splitlines()) == 1, done.all
    assert done.out == "", done.all


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_mistake_on_two_ranks_is_reported_by_one(tmp_path, texts, transport):
    if transport == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    train = ["train", "--dataset", str(texts), "--model", "bag", "--label-key", "lable"]
    train += ["--run-dir", str(tmp_path / "run")]
    done = run(["launch/local.sh", "-n", "2", f"--{transport}", *train], timeout_s=90)
    assert done.code == 2, done.all
    assert done.err.count("has no column 'lable': did you mean 'label'?") == 1, done.all
    assert "Traceback" not in done.err, done.all
    assert done.out == "", done.all
    assert not (tmp_path / "run").exists()


FAILING = """
import sys
import app.train
from app.__main__ import main
real = app.train.train

def train(config, **options):
    import keras

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            from app.distributed.launcher import read_launcher
            if batch == 5 and read_launcher().rank == 1:
                raise RuntimeError("the cat sat on rank 1")

    return real(config, callbacks=[Fail()], **options)

app.train.train = train
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_rank_that_raises_stops_all_ranks_with_its_message(tmp_path, transport):
    if transport == "mpi" and shutil.which("mpirun") is None:
        pytest.skip("Open MPI is not installed")
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    command = [sys.executable, str(script), *DIGITS, "--run-dir", str(tmp_path / "run")]
    done = run(horovodrun(3, transport, *command), timeout_s=90)
    assert done.code != 0, done.all
    assert "rank 1 of 3 failed" in done.err, done.all
    assert "the cat sat on rank 1" in done.err, done.all
    assert len(re.findall("Traceback", re.sub(r"(?m)^(?!\[).*$", "", done.err))) == 1, done.all
    log = (tmp_path / "run" / "logs" / "rank-001.log").read_text()
    assert "ERROR lockstep: rank 1 of 3 failed" in log and "the cat sat on rank 1" in log, log


def test_several_ranks_without_horovod_are_refused():
    blocked = (
        "import sys; sys.modules['horovod'] = None; from app.__main__ import main;"
        "sys.exit(main(['train', '--epochs', '1']))"
    )
    done = run(
        [sys.executable, "-c", blocked],
        timeout_s=60,
        OMPI_COMM_WORLD_RANK="0",
        OMPI_COMM_WORLD_SIZE="2",
    )
    assert done.code == 2, done.all
    assert "Open MPI started 2 ranks, but Horovod cannot be imported" in done.err, done.all
    assert "Traceback" not in done.err, done.all


def test_local_sh_says_what_to_do_when_horovodrun_is_missing(tmp_path):
    done = run(
        ["launch/local.sh", *DIGITS],
        timeout_s=20,
        LOCKSTEP_VENV=str(tmp_path / "none"),
        PATH="/usr/bin:/bin",
    )
    assert done.code == 2, done.all
    assert "horovodrun is missing: run 'make setup'" in done.err, done.all


def test_help_names_every_key_with_its_default():
    done = run(app("train", "--help"), timeout_s=30)
    assert done.code == 0, done.all
    for piece in ("--learning-rate", "[0.001]", "--per-rank-batch-size", "--resume", "TOML"):
        assert piece in done.out, done.all


def commands() -> list[str]:
    done = run(app("--help"), timeout_s=30)
    return re.findall(r"^    (\w+)(?:  |$)", done.out, re.MULTILINE)


def test_the_readme_names_every_command_and_no_other():
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"python -m app (\w+)", readme)) == set(commands())


def test_every_flag_in_the_readme_is_one():
    programs = [app(command, "--help") for command in commands()]
    programs += [["launch/local.sh", "--help"], ["launch/hosts.sh", "--help"]]
    known = "".join(run(program, timeout_s=30).out for program in programs)
    # TensorBoard's and horovodrun's:
    others = {"--logdir", "--help", "--network-interfaces", "--timeline-filename"}
    ours = re.sub(
        r"\b(docker|kubectl|huggingface-cli) [^`\n]*?(?= launch/|[`\n])",
        "",
        (ROOT / "README.md").read_text(),
    )
    ours = re.sub(r"`--build-arg [^`]*`", "", ours)
    given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours))
    assert "--epochs" in given
    assert [flag for flag in sorted(given - others) if not re.search(rf"{flag}\b", known)] == []
