"""Temperatures: against a plain search, by parts, and where there is none."""

import concurrent.futures
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from app.data.heads import Head
from app.errors import UserError
from app.evaluation.calibration import MOST, fit_temperature, read_temperatures, scaled


def examples(temperature: float, number: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right once they are divided by the temperature, and labels drawn so."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(number, 7)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > rng.random((number, 1))).argmax(axis=1)
    return (logits * temperature).astype(np.float32), labels


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    wide = logits.astype(np.float64) / temperature
    return float((np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 20.0])
def test_the_temperature_is_the_one_with_the_least_loss(true: float) -> None:
    logits, labels = examples(true)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    least = loss(logits, labels, found)
    for other in found * np.array([0.9, 0.99, 0.999, 1.001, 1.01, 1.1]):
        assert loss(logits, labels, other) > least


def test_large_logits_do_not_overflow() -> None:
    logits, labels = examples(2.0)
    moved = logits.astype(np.float64) + 1e4
    assert fit_temperature(moved, labels) == pytest.approx(fit_temperature(logits, labels), 1e-6)


def joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[float | None]:
    """What each part finds, in a thread for each, where `total` is the sum over all."""
    barrier, said = threading.Barrier(len(parts), timeout=30), [np.zeros(0)] * len(parts)

    def fit(number: int) -> float | None:
        def total(own: np.ndarray) -> np.ndarray:
            said[number] = own
            barrier.wait()
            found = np.sum(said, axis=0)
            barrier.wait()
            return found

        return fit_temperature(*parts[number], total)

    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(fit, range(len(parts))))


def test_parts_that_are_summed_give_what_the_whole_gives() -> None:
    logits, labels = examples(2.5, 1000)
    nothing = (logits[:0], labels[:0])
    found = joined([(logits[:300], labels[:300]), (logits[300:], labels[300:]), nothing])
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


def test_there_is_none_where_all_are_right_or_no_more_than_by_chance() -> None:
    logits, labels = examples(1.0)
    assert fit_temperature(logits, logits.argmax(axis=1)) is None
    assert fit_temperature(logits, logits.argmin(axis=1)) is None
    assert fit_temperature(logits[:0], labels[:0]) is None
    almost = logits.argmax(axis=1)
    almost[0] = logits[0].argmin()
    assert 1 / MOST < fit_temperature(logits, almost) < 1


def test_scaled_logits_are_the_same_array_without_a_temperature() -> None:
    logits = np.ones((2, 3), np.float32)
    assert scaled(logits, None) is logits
    assert scaled(logits, 4.0).tolist() == [[0.25] * 3] * 2


HEADS = (Head("intent", ("a", "b")), Head("domain", ("c", "d")))


def test_temperatures_count_for_the_weights_that_they_were_found_for(tmp_path, caplog) -> None:
    file = tmp_path / "step-1.json"
    assert read_temperatures(file, "w", HEADS) == {}
    kept = {"weights": "w", "temperatures": {"domain": 2, "intent": 0.5}}
    file.write_text(json.dumps(kept))
    assert read_temperatures(file, "w", HEADS) == {"intent": 0.5, "domain": 2.0}
    with caplog.at_level(logging.WARNING):
        assert read_temperatures(file, "other", HEADS) == {}
    assert "other weights" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "[]", '{"weights": "w"}', '{"weights": "w", "temperatures": {"intent": 1}}']
)
def test_a_damaged_file_is_said(tmp_path: Path, content: str) -> None:
    file = tmp_path / "step-1.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"step-1.json cannot be read .* calibrate the run again"):
        read_temperatures(file, "w", HEADS)
