"""The command line: what it parses, what it refuses, and how a failure ends."""

import os
import subprocess
import sys

import pytest

from app.__main__ import main
from app.commands.command_line import parse
from app.config import sections
from app.errors import STOPPED, UserError
from app.recipe import given_keys
from tests.integration.launching import ROOT


def test_the_help_names_every_flag(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["train", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for section in sections().values():
        for key in section.model_fields:
            assert f"--{key.replace('_', '-')} " in printed
    assert "'train[:90%]'" in printed


def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(capsys) -> None:
    assert main(["train", "--epoch", "3"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: unknown argument '--epoch': did you mean '--epochs'?")
    assert streams.err.count("\n") == 1


def test_the_command_line_tells_actions_from_config_keys() -> None:
    _, options = parse(["train", "--resume", "--run-dir", "runs/one"])
    assert options.resume and given_keys(options) == {"run_dir": "runs/one"}
    _, options = parse(["evaluate", "runs/one", "--split", "test", "--data", "digits"])
    assert given_keys(options) == {"dataset": "digits"}


EXPORT = ["export", "run", "--format"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["evalute", "run"], "unknown command 'evalute': did you mean 'evaluate'?"),
        (["predict", "run"], "required: INPUT"),
        (["predict", "run", "-", "--top", "0"], "--top: expected a whole number, at least 1, got"),
        (["predict", "run", "-", "--batch-size", "x"], "--batch-size: expected a whole number"),
        ([*EXPORT, "onnx"], "unknown --format 'onnx': Valid: keras, savedmodel, tflite"),
        ([*EXPORT, "SavedModel"], "did you mean 'savedmodel'"),
        (
            [*EXPORT, "tflite", "--quantize", "int4"],
            "unknown --quantize 'int4': did you mean 'int8",
        ),
        ([*EXPORT, "keras", "--quantize", "int8"], "--quantize int8 is for --format tflite, not"),
        (["doctor", "--hosts", "a", "--hostfile", "b"], "not allowed with argument"),
        (["doctor", "--ssh-port", "0"], "--ssh-port: expected a whole number from 1 to 65535"),
    ],
)
def test_a_mistake_in_the_options_is_told(capsys, arguments, message) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_commands_of_one_process_refuse_a_launcher(monkeypatch) -> None:
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    command, options = parse(["compare", "a", "b"])
    with pytest.raises(UserError, match="compare runs in one process"):
        command(options)


def test_a_failure_before_tensorflow_is_loaded_does_not_load_it() -> None:
    code = (
        "import sys, app.preflight\n"
        "from app.__main__ import main\n"
        "def check(*_): raise RuntimeError('the disk is on fire')\n"
        "app.preflight.check = check\n"
        "print(main(['train']), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "1 False\n", done.stderr
    assert done.stderr.endswith("RuntimeError: the disk is on fire\n\n")


def test_whoever_is_asked_to_stop_after_an_exchange_has_failed_has_stopped() -> None:
    """The other rank was asked earlier, and has ended."""
    code = (
        "import os, signal, threading, time, app.preflight, tensorflow as tf\n"
        "from app.__main__ import main\n"
        "def check(*_):\n"
        "    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    raise tf.errors.UnknownError(None, None, 'Horovod has been shut down')\n"
        "app.preflight.check = check\n"
        "main(['train'])"
    )
    environ = {**os.environ, "HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (STOPPED, b""), done.stderr
    assert b"exchange failed" not in done.stderr
