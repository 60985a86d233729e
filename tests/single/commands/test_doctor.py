"""What the doctor prints, and its exit code."""

from app.commands.doctor import exit_code, lines
from app.doctor.probe import Result


def test_a_problem_makes_the_exit_code_and_a_warning_does_not():
    ok, warning, problem = (Result(s, "x", "y") for s in ("ok", "warning", "problem"))
    assert exit_code([ok, warning]) == 0
    assert exit_code([ok, warning, problem]) == 1


def test_a_result_is_printed_with_its_output_and_what_to_do():
    printed = lines(
        Result("problem", "Horovod", "cannot be imported\nImportError: x", "make setup")
    )
    assert printed == [
        "problem  Horovod          cannot be imported",
        "                          | ImportError: x",
        "                          -> make setup",
    ]
