"""The doctor's judgement on what is installed: TensorFlow, Horovod, MPI, GPUs."""

import pytest

from app.doctor.probe import Finished, Pending
from app.doctor.software import (
    Probes,
    check_allreduce,
    count_gpus,
    judge_allreduce,
    judge_gpus,
    judge_horovod,
    judge_horovodrun,
    judge_mpi,
    judge_nvidia_smi,
    judge_tensorflow,
    marked,
)
from tests.single.doctor.planted import DONE, failed, statuses

GPU_TENSORFLOW = {"gpus": ["H200"], "cuda": True}
BUILT_FOR_CPU = {"gloo": 1, "MPI": 0, "NCCL": 0, "CUDA": 0}
BUILT_FOR_GPU = {"gloo": 1, "MPI": 1, "NCCL": 23203, "CUDA": 1}


def test_imports_that_crash_show_their_output():
    crashed = Finished("killed by SIGSEGV", -11, "", "undefined symbol: _ZN4absl\n")
    for judge, name in ((judge_tensorflow, "TensorFlow"), (judge_horovod, "Horovod")):
        result = judge(None, crashed)
        assert (result.status, result.name) == ("problem", name)
        assert "SIGSEGV\nundefined symbol" in result.found and "make setup" in result.advice


def test_another_keras_backend_is_a_problem():
    facts = {"tensorflow": "2.20.0", "keras": "3.15.0", "backend": "jax"}
    assert judge_tensorflow(facts, DONE).status == "problem"
    assert judge_tensorflow({**facts, "backend": "tensorflow"}, DONE).status == "ok"


def test_horovod_says_what_it_was_built_with():
    cpu = judge_horovod(BUILT_FOR_CPU, DONE)
    assert (cpu.status, cpu.found) == ("ok", "built with gloo; without MPI, NCCL, CUDA")
    assert judge_horovod(BUILT_FOR_GPU, DONE).found == "built with gloo, MPI, NCCL, CUDA"
    assert judge_horovod({**BUILT_FOR_CPU, "gloo": 0, "MPI": 1}, DONE).status == "warning"
    assert judge_horovod({**BUILT_FOR_CPU, "gloo": 0}, DONE).status == "problem"


def test_a_cpu_horovod_on_a_gpu_host_is_a_warning():
    results = judge_gpus(1, GPU_TENSORFLOW, BUILT_FOR_CPU)
    assert statuses(results) == ["ok", "warning"]
    assert "without NCCL" in results[1].found and "LOCKSTEP_HOROVOD=gpu" in results[1].advice
    assert statuses(judge_gpus(1, GPU_TENSORFLOW, BUILT_FOR_GPU)) == ["ok"]


def test_gpus_that_tensorflow_does_not_see_are_a_warning(monkeypatch):
    blind = {"gpus": [], "cuda": False}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (result,) = judge_gpus(4, blind, BUILT_FOR_GPU)
    assert result.status == "warning" and "0 of 4" in result.found and "and-cuda" in result.advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES" in judge_gpus(4, blind, BUILT_FOR_GPU)[0].advice


def test_what_hides_gpus_is_blamed_only_for_those_that_it_hides(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (result,) = judge_gpus(4, {"gpus": ["H200"] * 2, "cuda": True}, BUILT_FOR_GPU)
    assert "sees 2 of 4" in result.found and "unset CUDA_VISIBLE_DEVICES" in result.advice
    (result,) = judge_gpus(4, {"gpus": [], "cuda": True}, BUILT_FOR_GPU)
    assert result.found == "TensorFlow sees 0 of 4, so ranks compute on CPU cores"
    assert "CUDA's libraries" in result.advice
    (result,) = judge_gpus(4, {"gpus": [], "cuda": False}, BUILT_FOR_GPU)
    assert "tensorflow[and-cuda]" in result.advice


def test_gpus_of_a_host_are_counted_in_dev_and_else_by_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus(str(tmp_path)) == 0
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'RTX 4090, 24564'\n")
    smi.chmod(0o755)
    assert count_gpus(str(tmp_path)) == 1
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert count_gpus(str(tmp_path)) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_gpus(str(tmp_path)) == 2


def test_without_gpus_nothing_about_them_is_wrong():
    assert statuses(judge_gpus(0, {"gpus": [], "cuda": False}, BUILT_FOR_CPU)) == ["ok"]
    assert statuses(judge_gpus(0, None, None)) == ["ok"]
    assert judge_nvidia_smi(Finished("nvidia-smi is not installed", None, "", ""), 0) == (0, [])


def test_nvidia_smi_counts_gpus_and_its_failure_is_told_where_there_are_some():
    count, (result,) = judge_nvidia_smi(DONE._replace(out="H200, 143771\nH200, 143771\n"), 0)
    assert (count, result.status) == (2, "ok")
    count, (result,) = judge_nvidia_smi(failed(9, err="driver mismatch"), 2)
    assert (count, result.status) == (2, "warning") and "driver mismatch" in result.found


@pytest.mark.parametrize(
    ("output", "status", "word"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...", "ok", "4.1.4"),
        ("mpirun (Open MPI) 5.0.7", "warning", "5.0.7"),
        ("HYDRA build details:\n  Version: 4.1.2", "warning", "another MPI"),
    ],
)
def test_open_mpi_is_expected_in_4_1(output, status, word):
    result = judge_mpi(DONE._replace(out=output), BUILT_FOR_GPU)
    assert result.status == status and word in result.found


def test_a_missing_mpirun_matters_only_to_a_horovod_with_mpi():
    missing = Finished("mpirun is not installed", None, "", "")
    assert judge_mpi(missing, BUILT_FOR_CPU).status == "ok"
    assert judge_mpi(missing, BUILT_FOR_GPU).status == "warning"


def test_horovodrun_must_belong_to_this_python():
    assert judge_horovodrun("/venv/bin/horovodrun", "/venv/bin/python").status == "ok"
    assert judge_horovodrun(None, "/venv/bin/python").status == "warning"
    other = judge_horovodrun("/usr/bin/horovodrun", "/venv/bin/python")
    assert other.status == "warning" and other.advice == "PATH=/venv/bin:$PATH"


def test_both_ranks_must_say_that_their_sums_are_right():
    both = (
        "[0]<stdout>:rank 0 of 2: allreduce is right\n[1]<stdout>:rank 1 of 2: allreduce is right"
    )
    assert judge_allreduce("gloo", DONE._replace(out=both)).status == "ok"
    one = judge_allreduce("gloo", DONE._replace(out=both.partition("\n")[0]))
    assert one.status == "problem" and "a rank said nothing" in one.found
    wrong = judge_allreduce("mpi", failed(1, both, "AssertionError: wrong sum of int64"))
    assert wrong.status == "problem" and "wrong sum of int64" in wrong.found


@pytest.mark.parametrize("mark", ["[{}]<stderr>:", "[1,{}]<stderr>:"])
def test_a_failed_allreduce_shows_the_ranks_and_not_the_launcher(mark):
    err = f"{mark.format(1)}AssertionError: b\n{mark.format(0)}AssertionError: a\n"
    result = judge_allreduce("gloo", failed(1, "", err + "Traceback of horovodrun\n" * 20))
    assert result.found.splitlines()[1:] == [
        "rank 0: AssertionError: a",
        "rank 1: AssertionError: b",
    ]
    silent = judge_allreduce("gloo", failed(1, "", "no free port"))
    assert silent.found.endswith("\nno free port")


def test_mpi_is_tried_when_horovod_has_it(monkeypatch):
    commands = []
    both = "rank 0 of 2: allreduce is right\nrank 1 of 2: allreduce is right"

    def fake(command, timeout_s, stdin, environ):
        commands.append(command)
        assert "OMPI_MCA_orte_default_hostfile" not in environ and timeout_s <= 120
        return DONE._replace(out=both)

    monkeypatch.setattr("app.doctor.software.run", fake)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile")
    built = Pending(lambda: (BUILT_FOR_GPU, DONE))
    results = check_allreduce(Probes(built, built), cores=1)
    assert [(r.status, r.name) for r in results] == [
        ("ok", "allreduce, gloo"),
        ("ok", "allreduce, mpi"),
    ]
    assert "--gloo" in commands[0] and "--mpi" in commands[1]
    assert any("--oversubscribe" in word for word in commands[1])


def test_only_a_whole_marked_line_is_an_answer():
    assert marked('welcome\nX {"a": 1}\nX {"a": 2}\n', "X ") == {"a": 2}
    for noise in ("", "welcome", 'X {"a": ', "X [1]", ' X {"a": 1}'):
        assert marked(noise, "X ") is None
