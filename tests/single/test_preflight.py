"""What is refused before TensorFlow is loaded, and the batch that fits small data."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import UserError
from app.preflight import check, check_compression, with_fitting_batch
from app.recipe import load
from tests.integration.launching import ROOT


@pytest.fixture
def table(tmp_path: Path) -> str:
    """39 rows of two classes, of which 31 are to train on."""
    rows = [f"text {row},{'ab'[row % 2]}" for row in range(39)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return str(tmp_path / "rows.csv")


def test_what_is_refused_is_refused_without_tensorflow(table: str) -> None:
    code = (
        "import sys\n"
        "from app.commands.command_line import run\n"
        f"code = run(['train', '--dataset', {table!r}, '--model', 'cnn'])\n"
        "print(code, sorted({'tensorflow', 'keras', 'horovod'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "model 'cnn' does not read texts, and rows holds texts" in done.stderr
    assert done.stdout.strip() == "2 []"


@pytest.mark.parametrize(
    ("keys", "ranks", "message"),
    [
        ({"model": "bag", "per_rank_batch_size": 32}, 2, "makes batches of 64, which is more"),
        ({"model": "bag", "global_batch_size": 40}, 2, "global_batch_size = 40 is more than the"),
        ({"model": "bag"}, 40, "40 ranks, but rows has 31 training examples"),
        ({"model": "bag", "backward_passes_per_step": 20}, 2, "2 rank(s) x 20 passes, but rows"),
        ({"model": "bag", "dataset": "pydocs", "global_batch_size": 1}, 2, "cannot be dealt to 2"),
        ({"dataset": "pydocs"}, 1, "model 'cnn' does not read texts, and pydocs holds texts"),
        ({"dataset": "synthetic-image:size=8", "model": "bag"}, 1, "does not read images"),
        ({"dataset": "missing.csv", "model": "bag"}, 1, "missing.csv"),
        (
            {"dataset": "digits", "model": "resnet50", "image_size": 16},
            1,
            "resnet50 needs images of at least 32 x 32 pixels, received 16 x 16",
        ),
        ({"dataset": "digits", "init_from": "nowhere"}, 1, "init_from = 'nowhere' does not exist"),
        (
            {"dataset": "digits", "init_from": str(ROOT / "tests")},
            1,
            "is neither a run (no config.toml) nor",
        ),
        (
            {"dataset": "digits", "init_from": str(ROOT / "README.md")},
            1,
            "is not a .safetensors file",
        ),
        ({"dataset": "digits", "stochastic_depth": 0.2}, 1, "model 'cnn': stochastic_depth leaves"),
        (
            {"dataset": "digits", "model": "efficientnetv2", "stochastic_depth": 0.2},
            1,
            "or a rate of its own; use resnet20, resnet18, resnet50, or leave it out",
        ),
        (
            {"dataset": "digits", "validation": 0, "early_stopping_epochs": 2},
            1,
            "early_stopping_epochs goes by validation, and validation = 0",
        ),
        ({"sync": "local"}, 2, "give either sync_every_steps (such as 8), or local_epochs"),
        ({"sync_every_steps": 8}, 2, "sync_every_steps = 8: sync = 'every_step' has no rounds"),
        ({"outer_momentum": 0.9}, 2, "outer_momentum is for sync = 'local'"),
        (
            {"sync": "local", "sync_every_steps": 8, "commit_every_steps": 100},
            2,
            "no multiple of sync_every_steps = 8, and commit points lie at ends of rounds: use 96 "
            "or 104",
        ),
        ({"sync": "local", "sync_every_steps": 8, "commit_every_steps": 3}, 2, "rounds: use 8"),
        ({"sync": "local", "local_epochs": 2}, 2, "local_epochs does not go with shard_by = 'iid'"),
        (
            {"sync_batch_norm": True, "sync": "local", "sync_every_steps": 8},
            2,
            "sync_batch_norm does not go with sync = 'local': ranks take steps of their own",
        ),
        (
            {"sync_batch_norm": True, "sync": "hierarchical", "sync_every_steps": 8},
            2,
            "sync_batch_norm does not go with sync = 'hierarchical' with sync_every_steps",
        ),
        (
            {"sync_batch_norm": True, "aggregation": "average"},
            2,
            "sync_batch_norm does not go with aggregation = 'average'",
        ),
        (
            {"sync": "local", "local_epochs": 2, "shard_by": "label", "commit_every_steps": 8},
            2,
            "local_epochs does not go with commit_every_steps",
        ),
    ],
)
def test_a_mistake_that_is_there_to_see_is_told(table, keys, ranks, message) -> None:
    with pytest.raises(UserError) as caught:
        check(load(None, {"dataset": table, **keys}), False, ranks)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("ranks", "passes", "per_rank"), [(1, 1, 16), (2, 1, 8), (2, 3, 4), (31, 1, 1), (1, 16, 1)]
)
def test_without_a_size_the_batch_fits_small_data(table, ranks, passes, per_rank) -> None:
    config = load(None, {"dataset": table, "model": "bag", "backward_passes_per_step": passes})
    check(config, False, ranks)
    fitted = with_fitting_batch(config, 31, ranks)
    assert fitted.training.per_rank_batch_size == per_rank
    assert fitted.training.examples_per_step(ranks) <= 31


def test_a_batch_that_fits_or_that_is_given_stays(table: str) -> None:
    config = load(None, {"dataset": table, "model": "bag"})
    assert with_fitting_batch(config, 64, 2) is config
    given = load(None, {"dataset": table, "model": "bag", "per_rank_batch_size": 64})
    assert with_fitting_batch(given, 31, 2) is given


@pytest.mark.parametrize("compression", ["topk", "powersgd"])
def test_residuals_of_pieces_are_refused_by_name(table: str, compression: str) -> None:
    given = load(None, {"dataset": table, "sync": "hierarchical"})
    check_compression(given, 16)
    distribution = given.distribution.model_copy(update={"compression": compression})
    with pytest.raises(UserError, match=f"'{compression}' does not go with sync = 'hierarchical'"):
        check_compression(given.model_copy(update={"distribution": distribution}), 4)


def test_a_run_that_is_there_is_told_before_anything_is_read(table, tmp_path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    config = load(None, {"dataset": table, "model": "bag", "run_dir": str(run)})
    with pytest.raises(UserError, match="already holds a run: add --resume"):
        check(config, False, 1)


@pytest.mark.parametrize(
    ("keys", "ranks", "message"),
    [
        ({"compression": "int8"}, 9, "compression = 'int8' with 9 ranks: .* at most 8"),
        ({"topk_ratio": 0.1}, 2, "topk_ratio is for compression = 'topk', .* 'none'"),
        ({"powersgd_rank": 2, "compression": "topk"}, 2, "powersgd_rank is for .*'powersgd'"),
        ({"compress_from_epoch": 1, "compression": "int8"}, 2, "'topk' or 'powersgd', but"),
        ({"compression": "topk", "optimizer": "lars"}, 2, "'topk' does not go with .* 'lars'"),
    ],
)
def test_keys_of_compression_that_do_not_go_together(keys, ranks: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(load(None, keys), False, ranks)


def test_keys_of_compression_that_go_together() -> None:
    for keys in ({"compression": "int8"}, {"compression": "topk", "topk_ratio": 0.1}):
        check(load(None, keys), False, 8)


@pytest.mark.parametrize("sync", ["every_step", "overlapped", "hierarchical"])
def test_ranks_with_one_model_at_every_step_may_normalise_together(sync: str) -> None:
    check(load(None, {"sync_batch_norm": True, "model": "resnet20", "sync": sync}), False, 2)
