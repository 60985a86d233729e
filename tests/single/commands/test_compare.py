"""The comparison of runs: what differs, ratios, curves, and runs that are not whole."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from app.commands.compare import compare, differing, read_curves, read_run, table
from app.errors import UserError
from app.recipe import load
from app.rundir.files import list_checkpoints
from app.train import train

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs that differ in width and length."""
    folder = tmp_path_factory.mktemp("runs")
    for name, width, epochs in (("a", 4, 2), ("b", 8, 3)):
        keys = {"width": width, "epochs": epochs, "run_dir": folder / name, "log_every_steps": 5}
        train(load(None, keys))
    return [folder / "a", folder / "b"]


@pytest.fixture
def copies(runs: list[Path], tmp_path: Path) -> list[Path]:
    """The same, to be damaged."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]


def cells(runs: list[Path]) -> dict[str, list[str]]:
    """The cells of each row of the table."""
    rows = table([read_run(run, run.name) for run in runs])
    return {name: rest for name, *rest in rows}


def metrics(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_the_table_has_only_the_config_keys_that_differ(runs: list[Path]) -> None:
    found = [read_run(run, run.name) for run in runs]
    assert differing(found) == ["model.width", "training.epochs"]
    shown = cells(runs)
    assert shown[""] == ["a", "b"]
    assert shown["status"] == ["finished", "finished"]
    assert shown["model.width"] == ["4", "8"]
    assert shown["training.epochs"] == ["2", "3"]
    assert [name for name in shown if "." in name] == ["model.width", "training.epochs"]


def test_metrics_are_those_of_the_runs_with_ratios_to_the_first(runs: list[Path]) -> None:
    one, other = map(metrics, runs)
    shown = cells(runs)
    for name, key, how in (
        ("test accuracy", "test_accuracy", "{:.2%}"),
        ("test loss", "test_loss", "{:.4f}"),
        ("examples/s", "examples_per_second", "{:,.0f}"),
        ("seconds", "seconds", "{:,.1f}"),
    ):
        first, second = how.format(one[key]), how.format(other[key])
        assert shown[name] == [first, f"{second} (x{other[key] / one[key]:.2f})"]
    assert shown["ranks"] == ["1", "1"]
    assert shown["epochs"] == ["2", "3"]
    assert shown["steps"] == [str(one["step"]), str(other["step"])]


def test_metrics_say_how_many_examples_were_trained_on_in_all(runs: list[Path]) -> None:
    for run, epochs in zip(runs, (2, 3), strict=True):
        about = json.loads((run / "data_plan" / "plan.json").read_text())
        assert metrics(run)["examples_trained_on"] == epochs * about["examples"]["train"]
        assert "examples_seen" not in metrics(run)  # of the epoch that would come next


def test_examples_per_rank_show_how_well_a_run_scales(copies: list[Path]) -> None:
    one, other = map(metrics, copies)
    (copies[0] / "metrics.json").write_text(json.dumps({**one, "examples_per_second": 1000}))
    doubled = {**other, "examples_per_second": 1800, "world_size": 2}
    (copies[1] / "metrics.json").write_text(json.dumps(doubled))
    shown = cells(copies)
    assert shown["examples/s"] == ["1,000", "1,800 (x1.80)"]
    assert shown["examples/s per rank"] == ["1,000", "900 (x0.90)"]


def test_goodput_is_shown_beside_the_speed_where_a_run_has_it(copies: list[Path]) -> None:
    for run, goodput in zip(copies, ({"share": 0.875, "restarts": 2}, "lost"), strict=True):
        (run / "metrics.json").write_text(json.dumps({**metrics(run), "goodput": goodput}))
    assert cells(copies)["goodput"] == ["87.5%", "-"]


def test_the_files_hold_the_same_as_the_table(runs: list[Path], tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "comparison"
    compare(runs, output)
    printed = capsys.readouterr().out
    rows = table([read_run(run, run.name) for run in runs])
    for name, *rest in rows:
        assert any(line.split() == " ".join([name, *rest]).split() for line in printed.splitlines())
    markdown = (output / "comparison.md").read_text()
    assert "| model.width | 4 | 8 |" in markdown and "![curves](curves.png)" in markdown
    assert sum(line.startswith("|") for line in markdown.splitlines()) == len(rows) + 1
    with (output / "comparison.csv").open() as file:
        one, other = csv.DictReader(file)
    assert [one["run"], other["run"]] == list(map(str, runs))
    assert float(other["test loss"]) == metrics(runs[1])["test_loss"]
    wanted = metrics(runs[1])["test_loss"] / metrics(runs[0])["test_loss"]
    assert float(other["test loss (ratio)"]) == wanted
    assert (one["test loss (ratio)"], other["model.width"]) == ("1.0", "8")
    with Image.open(output / "curves.png") as image:
        image.verify()


def test_curves_are_the_points_of_the_event_files(runs: list[Path]) -> None:
    curves = read_curves(runs[1])
    assert set(curves) == {(s, t) for s in ("train", "validation") for t in ("loss", "accuracy")}
    steps = metrics(runs[1])["step"]
    losses = curves["train", "loss"]
    assert [point.step for point in losses] == list(range(5, steps + 1, 5))
    accuracies = curves["validation", "accuracy"]
    assert [point.step for point in accuracies] == [steps // 3, 2 * steps // 3, steps]
    assert losses[0].value > losses[-1].value > 0
    assert 0 < accuracies[0].value < accuracies[-1].value <= 1
    assert 0 <= losses[0].seconds < losses[-1].seconds < 300


def test_curves_equal_those_of_tensorboards_own_reader(runs: list[Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for (split, tag), points in read_curves(runs[0]).items():
        own = EventAccumulator(str(runs[0] / "tensorboard" / split), {TENSORS: 0}).Reload()
        wanted = [
            (e.step, float(make_ndarray(e.tensor_proto))) for e in own.Tensors(f"learning/{tag}")
        ]
        assert [(point.step, point.value) for point in points] == wanted


def test_a_step_that_a_resumed_run_repeats_counts_once_and_last(copies: list[Path]) -> None:
    before = read_curves(copies[0])["train", "loss"]
    folder = copies[0] / "tensorboard" / "train"
    (other,) = (copies[1] / "tensorboard" / "train").iterdir()
    shutil.copy(other, folder / "events.out.tfevents.9999999999.later")
    after = read_curves(copies[0])["train", "loss"]
    later = read_curves(copies[1])["train", "loss"]
    assert len(later) > len(before)
    assert [(p.step, p.value) for p in after] == [(p.step, p.value) for p in later]


def test_an_event_file_that_is_being_written_gives_what_is_whole(copies: list[Path]) -> None:
    (path,) = (copies[0] / "tensorboard" / "train").iterdir()
    before = read_curves(copies[0])["train", "accuracy"]
    content = path.read_bytes()
    last_point = content.rindex(b"learning/accuracy")
    for cut in (len(content) - 1, last_point, len(content) // 2, 40, 5, 0):
        path.write_bytes(content[:cut])
        points = read_curves(copies[0]).get(("train", "accuracy"), [])
        assert points == before[: len(points)]
        assert len(points) < len(before) or cut > last_point
    path.write_bytes(content[:100] + b"\xff" * 200)
    read_curves(copies[0])  # ends


def test_runs_that_are_not_whole_are_shown_as_such(copies: list[Path], tmp_path, capsys) -> None:
    (copies[1] / "metrics.json").unlink()
    shutil.rmtree(list_checkpoints(copies[1] / "checkpoints")[-1])
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(copies[0] / "config.toml", bare)
    shown = cells([*copies, bare])
    unfinished = ["unfinished, 2 of 3 epochs", "unfinished, 0 of 2 epochs"]
    assert shown["status"] == ["finished", *unfinished]
    assert shown["test accuracy"][1:] == shown["ranks"][1:] == ["-", "-"]
    assert shown["data (fingerprint)"][0] == shown["data (fingerprint)"][1] != "-"
    assert shown["data (fingerprint)"][2] == "-"
    compare([bare, *copies], tmp_path / "out")  # with nothing to be the ratio of
    assert "(x" not in capsys.readouterr().out
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000


def test_metrics_of_an_earlier_end_are_not_those_of_a_run_resumed_since(copies) -> None:
    shutil.copytree(copies[1] / "checkpoints", copies[0] / "checkpoints", dirs_exist_ok=True)
    recipe = (copies[0] / "config.toml").read_text().replace("epochs = 2\n", "epochs = 9\n", 1)
    (copies[0] / "config.toml").write_text(recipe)
    shown = cells(copies[:1])
    assert shown["status"] == ["unfinished, 3 of 9 epochs"]
    assert shown["test accuracy"] == ["-"]


def test_a_damaged_file_of_results_is_no_result(copies: list[Path]) -> None:
    for content in ('{"test_accuracy": 0.5', "[1]", '{"test_accuracy": "high", "epoch": null}'):
        (copies[0] / "metrics.json").write_text(content)
        (list_checkpoints(copies[0] / "checkpoints")[-1] / "state.json").write_text(content)
        shown = cells(copies)
        assert shown["status"][0] == "unfinished, 0 of 2 epochs"
        assert shown["test accuracy"][0] == "-"
        assert "(x" not in shown["test accuracy"][1]


def test_one_run_is_shown_alone_and_equal_runs_differ_in_nothing(runs, copies) -> None:
    assert not any("." in name or "differs" in name for name in cells(runs[:1]))
    shown = cells([runs[0], copies[0]])
    assert "no config key differs" in shown
    assert shown["test loss"][1].endswith(" (x1.00)")


def test_runs_of_the_same_name_are_told_apart_by_their_paths(runs, copies, capsys) -> None:
    compare([runs[0], copies[0]], None)
    assert capsys.readouterr().out.splitlines()[0].split() == [str(runs[0]), str(copies[0])]


def test_odd_names_spoil_neither_table_nor_figure(copies: list[Path], tmp_path: Path) -> None:
    odd = copies[0].rename(tmp_path / "a|b $x^$ 日本")
    compare([odd, copies[1]], tmp_path / "out")
    lines = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert r"|  | a\|b &#36;x^&#36; 日本 | b |" in lines


def test_what_is_no_run_and_an_output_that_fails_are_named(runs, tmp_path) -> None:
    with pytest.raises(UserError, match=r"gone holds no run \(no config.toml\)"):
        compare([runs[0], tmp_path / "gone"], None)
    with pytest.raises(UserError, match="holds no run"):
        compare([tmp_path], None)
    (tmp_path / "config.toml").write_text("not = = toml")
    with pytest.raises(UserError, match=r"config.toml cannot be read: "):
        compare([tmp_path], None)
    with pytest.raises(UserError, match="cannot write to"):
        compare(runs, tmp_path / "config.toml" / "out")


def test_nothing_of_it_imports_tensorflow(runs: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from app.commands.compare import compare\n"
        f"compare([Path({str(runs[0])!r})], None); table = set(sys.modules)\n"
        f"compare([Path({str(runs[0])!r})], Path({str(tmp_path)!r}))\n"
        "sys.exit(str({'tensorflow', 'keras', 'matplotlib'} & table\n"
        "             | {'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "set()"
