"""A run's config: defaults, recipes and flags, and what the user is told about a mistake."""

import tomllib
import typing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.config import Config, section_of, sections
from app.errors import UserError
from app.recipe import add_flags, load, to_toml
from models.table import MODELS

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "launch" / "recipes").glob("*.toml"))


@pytest.fixture
def recipe(tmp_path: Path):
    """Writes a recipe."""

    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message_of(recipe: Path | None = None, **overrides: object) -> str:
    with pytest.raises(UserError) as caught:
        load(recipe, overrides)
    return str(caught.value)


def test_flags_override_the_recipe_and_the_recipe_the_defaults(recipe) -> None:
    path = recipe("[training]\nepochs = 3\nseed = 7\n[model]\nmodel = 'resnet20'\n")
    config = load(path, {"epochs": "5", "learning_rate": "0.5"})
    assert config.training.epochs == 5
    assert config.training.seed == 7
    assert config.model.model == "resnet20"
    assert config.optimizer.learning_rate == 0.5
    assert config.optimizer.momentum == Config().optimizer.momentum


def test_no_recipe_and_no_flags_give_the_defaults() -> None:
    assert load(None, {}) == Config()


def test_flags_are_text_and_become_the_type_of_their_key() -> None:
    config = load(
        None,
        {
            "sparse_as_dense": "false",
            "schedule": "step",
            "step_epochs": "1,2.5",
            "run_dir": "somewhere/else",
            "clip_norm": "1e-1",
        },
    )
    assert config.distribution.sparse_as_dense is False
    assert config.optimizer.step_epochs == [1.0, 2.5]
    assert config.run.run_dir == Path("somewhere/else")
    assert config.optimizer.clip_norm == 0.1


def test_the_flag_ngrams_takes_a_number() -> None:
    assert load(None, {"ngrams": "2"}).data.ngrams == 2


@pytest.mark.parametrize("key", ["validation", "test"])
def test_the_flags_for_held_out_data_take_a_share(key: str) -> None:
    assert getattr(load(None, {key: "0.25"}).data, key) == 0.25


@pytest.mark.parametrize("key", ["validation", "test"])
def test_the_flags_for_held_out_data_take_a_split(key: str) -> None:
    assert getattr(load(None, {key: "train[90%:]"}).data, key) == "train[90%:]"


def test_the_flag_of_one_batch_size_replaces_the_other_of_the_recipe(recipe) -> None:
    path = recipe("[training]\nglobal_batch_size = 128\n")
    training = load(path, {"per_rank_batch_size": "8"}).training
    assert (training.per_rank_batch_size, training.global_batch_size) == (8, None)
    assert training.examples_per_step(4) == 32
    path = recipe("[training]\nper_rank_batch_size = 8\nbackward_passes_per_step = 2\n")
    assert load(path, {}).training.examples_per_step(4) == 64
    assert load(path, {"global_batch_size": "128"}).training.examples_per_step(4) == 128


def test_both_batch_sizes_are_refused_together(recipe) -> None:
    both = {"per_rank_batch_size": "8", "global_batch_size": "64"}
    assert "not both" in message_of(**both)
    path = recipe("[training]\nper_rank_batch_size = 8\nglobal_batch_size = 64\n")
    message = message_of(path)
    assert "not both" in message and str(path) in message


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
CONTROLS = st.text(st.characters(categories=["Cc"]), min_size=1)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@st.composite
def configs(draw) -> Config:
    return Config.model_validate(
        {
            "data": {
                "dataset": draw(TEXTS),
                "data_dir": draw(st.none() | TEXTS),
                "validation": draw(st.floats(0, 1) | TEXTS),
                "ngrams": draw(st.sampled_from([1, 2, 3])),
            },
            "model": {"model": draw(st.sampled_from(list(MODELS)))},
            "training": {"seed": draw(st.integers(0, 2**31 - 1))},
            "optimizer": {
                "learning_rate": draw(POSITIVE),
                "schedule": "step",
                "step_epochs": draw(st.lists(st.floats(0, 1e300), min_size=1)),
                "clip_norm": draw(st.none() | POSITIVE),
            },
            "distribution": {"sparse_as_dense": draw(st.booleans())},
            "run": {"run_dir": draw(st.none() | TEXTS)},
        }
    )


@settings(deadline=None)
@given(configs())
def test_a_config_written_as_toml_is_read_back_the_same(config: Config) -> None:
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


@settings(deadline=None)
@example("two\nlines")
@example("\x7f")
@given(CONTROLS)
def test_a_path_with_control_characters_is_read_back_the_same(text: str) -> None:
    config = Config.model_validate({"data": {"dataset": text}})
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


def test_the_config_that_a_run_keeps_is_a_recipe(recipe) -> None:
    config = load(None, {"epochs": "3", "data_dir": 'C:\\data "old"'})
    assert load(recipe(to_toml(config)), {}) == config


def test_a_key_is_in_one_section_only() -> None:
    keys = [key for section in sections().values() for key in section.model_fields]
    assert sorted(keys) == sorted(set(keys))
    assert section_of("learning_rate") == "optimizer"


def test_the_models_of_the_config_are_those_of_the_table() -> None:
    choices = typing.get_args(sections()["model"].model_fields["model"].annotation)
    assert choices == tuple(MODELS)


def test_an_unknown_flag_key_names_the_nearest() -> None:
    message = message_of(learning_rat="1")
    assert "'learning_rat'" in message and "did you mean 'learning_rate'?" in message


def test_an_unknown_key_of_a_recipe_names_the_nearest(recipe) -> None:
    message = message_of(recipe("[training]\nepoch = 3\n"))
    assert "'epoch'" in message and "did you mean 'epochs'?" in message


def test_an_unknown_key_of_a_recipe_names_the_recipe(recipe) -> None:
    path = recipe("[training]\nepoch = 3\n")
    assert str(path) in message_of(path)


def test_a_key_in_the_wrong_table_names_the_right_one(recipe) -> None:
    path = recipe("[training]\nlearning_rate = 0.1\n")
    expected = f"{path}: 'learning_rate' belongs to [optimizer], not to [training]"
    assert message_of(path) == expected


def test_a_key_above_all_tables_names_its_table(recipe) -> None:
    message = message_of(recipe("epochs = 3\n"))
    assert "'epochs'" in message and "[training]" in message


def test_a_table_given_as_a_value_is_refused(recipe) -> None:
    assert "[model] must be a table" in message_of(recipe("model = 'cnn'\n"))


def test_an_unknown_table_names_the_nearest(recipe) -> None:
    path = recipe("[trainning]\nepochs = 3\n")
    message = message_of(path)
    assert f"{path}: unknown table 'trainning'" in message
    assert "did you mean 'training'?" in message


def test_an_unknown_recipe_names_the_nearest(recipe) -> None:
    path = recipe("")
    message = message_of(path.with_name("recipes.toml"))
    assert "recipes.toml" in message and f"did you mean '{path}'?" in message


def test_a_recipe_that_is_not_toml_is_named_with_the_line(recipe) -> None:
    path = recipe("[data]\ndataset = \n")
    message = message_of(path)
    assert f"{path} is not TOML" in message and "line 2" in message


def test_an_unknown_value_names_flag_value_and_the_nearest() -> None:
    message = message_of(model="resnet51")
    assert "--model" in message and "'resnet51'" in message
    assert "did you mean 'resnet50'?" in message


def test_an_unknown_value_of_a_recipe_names_recipe_and_key(recipe) -> None:
    path = recipe("[optimizer]\nschedule = 'cosin'\n")
    message = message_of(path)
    assert f"{path}: schedule: unknown value 'cosin'" in message
    assert "did you mean 'cosine'?" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", "0"), ("epochs", "many"), ("dropout", "1"), ("seed", "-1"), ("clip_norm", "0")],
)
def test_a_value_out_of_range_names_flag_and_value(key: str, value: str) -> None:
    message = message_of(**{key: value})
    assert f"--{key.replace('_', '-')}" in message and f"'{value}'" in message


@pytest.mark.parametrize("optimizer", [{"schedule": "step"}, {"step_epochs": "1,2"}])
def test_step_epochs_and_the_schedule_step_go_together(optimizer: dict[str, str]) -> None:
    assert "step_epochs goes with schedule = 'step'" in message_of(**optimizer)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"schedule": "one_cycle", "warmup_epochs": 1}, "warmup_epochs does not go with schedule"),
        ({"optimizer": "adamw"}, "optimizer = 'adamw' is adam with a decoupled weight_decay"),
        ({"randaugment_strength": 5}, "goes with auto_augment = 'randaugment'"),
        (
            {"randaugment_operations": 3, "auto_augment": "trivialaugment"},
            "randaugment_operations goes with auto_augment = 'randaugment'",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused_by_name(keys, told: str) -> None:
    assert told in message_of(**keys)


@pytest.mark.parametrize(("keep_best", "watched"), [("none", "loss"), ("accuracy", "accuracy")])
def test_early_stopping_watches_what_keep_best_names(keep_best: str, watched: str) -> None:
    assert load(None, {"keep_best": keep_best}).watched == watched


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    config = load(path, {})
    assert config.data.dataset in path.read_text()


def test_there_are_recipes() -> None:
    assert {"digits", "pydocs"} <= {path.stem for path in RECIPES}


def test_the_default_that_help_shows_is_the_configs() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_flags(parser)
    help_of = {action.dest: action.help for action in parser._actions}
    assert help_of["label_smoothing"].endswith("[0.0]")
    assert help_of["epochs"].endswith(f"[{Config().training.epochs}]")


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({}, 1000),
        ({"sync": "local", "sync_every_steps": 8}, 1000),
        ({"sync": "local", "sync_every_steps": 7}, 1001),
        ({"sync": "local", "sync_every_steps": 7, "commit_every_steps": 14}, 14),
    ],
)
def test_commit_points_come_every_1000_steps_or_with_the_next_round(keys, steps) -> None:
    assert load(None, keys).commit_steps == steps
