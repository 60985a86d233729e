"""Runs of two labels: metrics, evaluate, predict, compare, and what knows that it does not know."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.__main__ import main
from app.commands.calibrate_run import calibrate_run
from app.commands.compare import compare, read_run, table
from app.commands.evaluate_run import evaluate_run
from app.commands.predict import predict
from app.commands.saved_run import open_run
from app.distributed.world import World
from app.errors import UserError
from app.rundir.files import RunFiles, list_checkpoints
from tests.single.commands.heads_runs import DOMAINS, UNKNOWN, text_rows, text_run, write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return text_run(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same, to be calibrated."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def metrics_of(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_metrics_have_each_label_beside_those_of_the_first(run: Path) -> None:
    metrics = metrics_of(run)
    heads = metrics["test_heads"]
    assert list(heads) == ["intent", "domain"]
    assert metrics["test_accuracy"] == heads["intent"]["accuracy"] > 0.6
    assert metrics["test_recall"] == heads["intent"]["recall"]
    assert metrics["test_loss"] == pytest.approx(
        heads["intent"]["loss"] + 0.5 * heads["domain"]["loss"]
    )
    assert set(heads["domain"]["recall"]) == {"shop", "help"}
    assert heads["domain"]["examples"] < heads["intent"]["examples"] == metrics["test_examples"]


def test_evaluate_reports_each_label_as_training_did(run: Path, tmp_path: Path, capsys) -> None:
    result = evaluate_run(run, {}, None, tmp_path / "out", World())
    metrics = metrics_of(run)
    assert result["accuracy"] == metrics["test_accuracy"]
    assert result["loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
    for name, one in metrics["test_heads"].items():
        found = result["heads"][name]
        assert (found["accuracy"], found["examples"]) == (one["accuracy"], one["examples"])
        for figure in ("confusion", "reliability", "f1"):
            assert (tmp_path / "out" / f"{figure}-{name}.png").stat().st_size > 1000
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "## intent\n" in text and "## domain\n" in text and "(confusion-domain.png)" in text
    assert text.count("### Most confident mistakes") == 2
    shown = capsys.readouterr().out
    assert "domain, accuracy" in shown and "intent, hardest" in shown


@pytest.mark.full_matrix
def test_another_source_is_renumbered_label_by_label(run: Path, tmp_path: Path) -> None:
    rows = text_rows(60, seed=5)
    # Classes come in another order here, and columns too.
    turned = [(domain, text, intent) for text, intent, domain in sorted(rows, key=lambda r: r[2])]
    path = write_rows(tmp_path / "turned.csv", ("domain", "text", "intent"), turned)
    plain = write_rows(tmp_path / "plain.csv", ("text", "intent", "domain"), rows)
    found = evaluate_run(run, {"dataset": str(path)}, None, tmp_path / "a", World())
    same = evaluate_run(run, {"dataset": str(plain)}, None, tmp_path / "b", World())
    for name in ("intent", "domain"):
        assert found["heads"][name]["confusion"] == same["heads"][name]["confusion"]
        assert found["heads"][name]["accuracy"] > 0.6
    assert sum(map(sum, found["heads"]["domain"]["confusion"])) == sum(bool(r[2]) for r in rows)


@pytest.mark.full_matrix
def test_a_source_may_lack_a_label_but_not_all(run: Path, tmp_path: Path) -> None:
    rows = [(text, domain) for text, _, domain in text_rows(60, seed=6) if domain]
    path = write_rows(tmp_path / "domains.csv", ("text", "domain"), rows)
    keys = {"dataset": str(path), "label_key": "domain"}
    found = evaluate_run(run, keys, None, tmp_path / "out", World())
    assert found["heads"]["domain"]["examples"] == len(rows)
    assert found["heads"]["intent"]["examples"] == 0
    assert found["accuracy"] is None and found["loss"] is not None
    path = write_rows(tmp_path / "other.csv", ("text", "topic"), rows)
    keys = {"dataset": str(path), "label_key": "topic"}
    with pytest.raises(UserError, match=r"none of the labels .* \(intent,domain\)"):
        evaluate_run(run, keys, None, tmp_path / "out", World())


@pytest.mark.full_matrix
def test_a_class_that_a_label_does_not_know_is_bad_and_named(run: Path, tmp_path: Path) -> None:
    rows = [("a b buy", "buy", "shop")] * 40 + [("a b buy", "buy", "garden")]
    path = write_rows(tmp_path / "rows.csv", ("text", "intent", "domain"), rows)
    with pytest.raises(UserError, match=r"line 42: class 'garden' of domain is none of those"):
        evaluate_run(run, {"dataset": str(path)}, None, tmp_path / "out", World())
    keys = {"dataset": str(path), "on_bad": "skip"}
    found = evaluate_run(run, keys, None, tmp_path / "out", World())
    assert found["heads"]["domain"]["examples"] == 40 and len(found["bad_examples"]) == 1


def answers(run: Path, tmp_path: Path, texts: list[str], **options) -> list[dict]:
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    output = tmp_path / "answers.jsonl"
    assert predict(run, [str(tmp_path / "texts.txt")], 64, None, output, **options) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_predict_answers_for_each_label(run: Path, tmp_path: Path) -> None:
    texts = [f"a b c {intent}" for intent in DOMAINS]
    found = answers(run, tmp_path, texts)
    assert [one["input"] for one in found] == texts
    assert [one["heads"]["intent"]["class"] for one in found] == list(DOMAINS)
    for one in found:
        assert set(one) == {"input", "heads"}
        for name, classes in (("intent", set(DOMAINS)), ("domain", {"shop", "help"})):
            head = one["heads"][name]
            assert set(head["probabilities"]) == classes
            assert head["probability"] == head["probabilities"][head["class"]]
            assert sum(head["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_predict_abstains_label_by_label(run: Path, tmp_path: Path) -> None:
    texts = ["a b c buy", "a b c d", "e f g ask"]
    plain = answers(run, tmp_path, texts)
    sure = [one["heads"][name]["probability"] for one in plain for name in ("intent", "domain")]
    limit = float(np.median(sure))
    found = answers(run, tmp_path, texts, abstain_below=limit)
    for one, other in zip(found, plain, strict=True):
        for name, head in one["heads"].items():
            before = other["heads"][name]
            is_sure = before["probability"] >= limit
            assert head == before | ({} if is_sure else {"class": None})
    nulls = [head["class"] is None for one in found for head in one["heads"].values()]
    assert 0 < sum(nulls) < len(nulls)


@pytest.mark.full_matrix
def test_the_table_of_runs_has_a_row_for_each_further_label(run: Path, tmp_path: Path) -> None:
    single = Path(shutil.copytree(run, tmp_path / "single"))
    metrics = metrics_of(single)
    del metrics["test_heads"]
    (single / "metrics.json").write_text(json.dumps(metrics))
    rows = {name: cells for name, *cells in table([read_run(one, "x") for one in (run, single)])}
    domain = metrics_of(run)["test_heads"]["domain"]["accuracy"]
    assert rows["test accuracy, domain"] == [f"{domain:.2%}", "-"]
    assert "test accuracy, domain" not in {r[0] for r in table([read_run(single, "x")])}
    compare([run, single], tmp_path / "out")
    header = (tmp_path / "out" / "comparison.csv").read_text().splitlines()[0]
    assert '"test accuracy, domain"' in header


def test_calibration_is_kept_and_used_for_its_checkpoint_alone(copy: Path, tmp_path: Path) -> None:
    before = evaluate_run(copy, {}, "validation", tmp_path / "a", World())
    plain = answers(copy, tmp_path, ["a b c buy"])
    found = calibrate_run(copy, World())
    run = open_run(copy)
    file = RunFiles(copy).calibration(run.checkpoint.name)
    assert json.loads(file.read_text()) == found
    assert run.temperatures == found["temperatures"]
    after = evaluate_run(copy, {}, "validation", tmp_path / "b", World())
    for name, temperature in found["temperatures"].items():
        assert temperature != 1 and run.temperatures[name] == temperature
        old, new = before["heads"][name], after["heads"][name]
        assert new["confusion"] == old["confusion"]
        assert new["loss"] < old["loss"] == pytest.approx(new["uncalibrated"]["loss"])
        assert new["uncalibrated"]["calibration_error"] == pytest.approx(old["calibration_error"])
        assert new["calibration_error"] == found["validation"][name]["calibration_error"]
        assert "uncalibrated" not in old
    text = (tmp_path / "b" / "evaluation.md").read_text()
    assert text.count(" before calibration") == 2
    (one,) = answers(copy, tmp_path, ["a b c buy"])
    logits = np.log(list(plain[0]["heads"]["intent"]["probabilities"].values()))
    shares = np.exp(logits / found["temperatures"]["intent"])
    expected = shares / shares.sum()
    shown = list(one["heads"]["intent"]["probabilities"].values())
    np.testing.assert_allclose(shown, expected, rtol=1e-4)
    older = list_checkpoints(copy / "checkpoints")[0].name
    assert older != run.checkpoint.name and open_run(copy, older).temperatures == {}


@pytest.mark.full_matrix
def test_an_unknown_class_and_coverage_are_reported(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(run), "--unknown-class", UNKNOWN, "--output", str(out)]
    assert main(command) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert f"--unknown-class {UNKNOWN}" in result["command"]
    intent, domain = result["heads"]["intent"], result["heads"]["domain"]
    recall = {row["class"]: row["recall"] for row in intent["classes"]}
    assert intent["unknown_class"]["recall"] == recall[UNKNOWN]
    assert 0.6 < intent["unknown_class"]["auroc"] <= 1
    assert "unknown_class" not in domain
    assert intent["coverage"][0]["accuracy"] == pytest.approx(intent["accuracy"])
    assert domain["coverage"][0]["answered"] == domain["examples"]
    text = (out / "evaluation.md").read_text()
    assert "AUROC of the confidence" in text and "### Accuracy over coverage" in text
    capsys.readouterr()
    assert main([*command[:3], "out_of_scop"]) == 2
    assert f"knows no such class: did you mean '{UNKNOWN}'?" in capsys.readouterr().err
