"""The networks of models/: shapes, names, padding, precision, saving, and that each one learns."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models import IMAGE_MODELS, TEXT_MODELS, build_image_model, build_text_model

CLASSES = 10
VOCABULARY_SIZE = 50
MAX_TOKENS = 16
# Narrow models for what does not depend on width; resnet50 has one width only.
NARROW_IMAGE = {"cnn": 4, "resnet20": 4, "resnet18": 4}

PARAMETERS = {
    "cnn": 25_578,
    "resnet20": 274_042,
    "resnet18": 11_183_562,
    "resnet50": 23_608_202,
    "bag": 129_290,
    "textcnn": 328_842,
    "transformer": 534_282,
}


@pytest.fixture(scope="module")
def resnet50():
    """The one model that is too big to build for each test."""
    keras.utils.set_random_seed(1)
    return build_image_model("resnet50", (32, 32, 3), CLASSES)


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def small_model(name, dropout=0.1):
    if name in TEXT_MODELS:
        sizes = {"max_tokens": MAX_TOKENS, "width": 8}
        return build_text_model(name, VOCABULARY_SIZE, CLASSES, dropout=dropout, **sizes)
    return build_image_model(name, (8, 8, 3), CLASSES, width=NARROW_IMAGE[name], dropout=dropout)


def random_images(count, pixels=8):
    return np.random.default_rng(0).uniform(0, 255, (count, pixels, pixels, 3)).astype("float32")


def random_tokens(count, length=7):
    return np.random.default_rng(0).integers(1, VOCABULARY_SIZE, (count, length), dtype="int32")


def random_inputs(name, count):
    return random_tokens(count) if name in TEXT_MODELS else random_images(count)


def logits_of(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


small_models = pytest.mark.parametrize("name", [*NARROW_IMAGE, *TEXT_MODELS])
text_models = pytest.mark.parametrize("name", TEXT_MODELS)


# What is offered.


def test_the_registry_holds_the_documented_models():
    assert set(IMAGE_MODELS) == {"cnn", "resnet20", "resnet18", "resnet50"}
    assert set(TEXT_MODELS) == {"bag", "textcnn", "transformer"}
    assert set(models.SMALLEST_IMAGE_PIXELS) == set(IMAGE_MODELS)


def test_an_unknown_name_is_answered_with_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet19'.*cnn, resnet20, resnet18, resnet50"):
        build_image_model("resnet19", (32, 32, 3), CLASSES)
    with pytest.raises(ValueError, match="'cnn'.*bag, textcnn, transformer"):
        build_text_model("cnn", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_an_image_that_is_too_small_is_answered_with_the_smallest_size(name):
    smallest = models.SMALLEST_IMAGE_PIXELS[name]
    with pytest.raises(ValueError, match=f"{name} .*at least {smallest} x {smallest} pixels"):
        build_image_model(name, (64, smallest - 1, 3), CLASSES)


@pytest.mark.parametrize("name", NARROW_IMAGE)
def test_the_smallest_image_works(name):
    smallest = models.SMALLEST_IMAGE_PIXELS[name]
    model = build_image_model(name, (smallest, smallest, 1), CLASSES, width=NARROW_IMAGE[name])
    assert logits_of(model, np.zeros((2, smallest, smallest, 1), "float32")).shape == (2, CLASSES)


@pytest.mark.parametrize("option", [{"width": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_bad_options_are_refused(option):
    ((key, value),) = option.items()
    with pytest.raises(ValueError, match=f"{key} must be at least .*received {value}"):
        build_image_model("cnn", (8, 8, 1), CLASSES, **option)
    with pytest.raises(ValueError, match=f"{key} must be at least .*received {value}"):
        build_text_model("bag", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS, **option)


def test_sizes_that_a_model_cannot_have_are_refused():
    with pytest.raises(ValueError, match="vocabulary_size .* at least 2; received 1"):
        build_text_model("bag", 1, CLASSES, max_tokens=MAX_TOKENS)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, received 0"):
        build_text_model("bag", VOCABULARY_SIZE, CLASSES, max_tokens=0)
    with pytest.raises(ValueError, match="multiple of 4, received 6"):
        build_text_model("transformer", VOCABULARY_SIZE, CLASSES, max_tokens=MAX_TOKENS, width=6)
    with pytest.raises(ValueError, match="only width 64, received 32"):
        build_image_model("resnet50", (32, 32, 3), CLASSES, width=32)


# Sizes and names.


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_pinned(name, request):
    if name == "resnet50":
        model = request.getfixturevalue("resnet50")
    elif name in IMAGE_MODELS:
        model = build_image_model(name, (32, 32, 3), CLASSES, dropout=0)
    else:
        model = build_text_model(name, 1000, CLASSES, max_tokens=64, dropout=0)
    assert model.count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", [*NARROW_IMAGE, *TEXT_MODELS, "resnet50"])
def test_names_are_the_same_however_many_models_were_built(name, request):
    if name == "resnet50":
        first = request.getfixturevalue("resnet50")
        second = build_image_model("resnet50", (32, 32, 3), CLASSES)
    else:
        first, second = small_model(name), small_model(name)
        assert any("seed_generator_state" in v.path for v in first.variables)  # the hard case
    assert first.name == second.name == name
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    paths = [variable.path for variable in first.variables]
    assert paths == [variable.path for variable in second.variables]
    assert len(set(paths)) == len(paths)


def test_batch_norm_of_every_resnet_forgets_at_the_same_rate(resnet50):
    for model in (resnet50, small_model("resnet20"), small_model("resnet18")):
        norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert norms
        assert {norm.momentum for norm in norms} == {0.9}


def test_resnet18_takes_its_stem_by_image_size():
    small = build_image_model("resnet18", (95, 96, 3), CLASSES, width=2)
    large = build_image_model("resnet18", (96, 96, 3), CLASSES, width=2)
    assert small.get_layer("stem_conv").kernel_size == (3, 3)
    assert large.get_layer("stem_conv").kernel_size == (7, 7)
    assert large.get_layer("average").input.shape[1:3] == (3, 3)


# Inputs.


@pytest.mark.parametrize("name", NARROW_IMAGE)
def test_image_models_rescale_pixels_themselves(name):
    rescale = small_model(name).get_layer("pixels")
    pixels = np.array([[[[0, 255]]]], "float32")
    low = 0 if name == "cnn" else -1
    np.testing.assert_allclose(rescale(pixels), [[[[low, 1]]]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_pixels_of_any_numeric_dtype_give_the_same_logits(dtype):
    model, images = small_model("cnn"), random_images(2).round()
    np.testing.assert_array_equal(logits_of(model, images.astype(dtype)), logits_of(model, images))


@text_models
@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_padding_never_changes_the_logits(name, length):
    model, tokens = small_model(name), random_tokens(3, length)
    expected = logits_of(model, tokens)
    for padding in (1, 2, 9):
        padded = np.pad(tokens, [(0, 0), (0, padding)])
        np.testing.assert_allclose(logits_of(model, padded), expected, atol=1e-5)


@text_models
def test_padding_changes_nothing_either_when_its_embedding_was_trained(name):
    model, tokens = small_model(name), random_tokens(3)
    table = model.get_layer("token_embedding").embeddings
    table.assign(keras.ops.concatenate([100 * keras.ops.ones((1, 8)), table[1:]]))
    padded = np.pad(tokens, [(0, 0), (0, 5)])
    np.testing.assert_allclose(logits_of(model, padded), logits_of(model, tokens), atol=1e-5)


@text_models
def test_a_text_of_only_padding_has_finite_logits_and_gradients(name):
    model = small_model(name)
    tokens = np.zeros((2, 5), "int32")
    with tf.GradientTape() as tape:
        logits = model(tokens, training=True)
        loss = tf.reduce_sum(logits**2)
    assert np.isfinite(logits).all()
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients if g is not None)


def test_texts_that_are_too_long_for_the_transformer_are_refused():
    model = small_model("transformer")
    assert logits_of(model, random_tokens(1, MAX_TOKENS)).shape == (1, CLASSES)
    with pytest.raises(ValueError, match="max_tokens=16 tokens, received a text of 17"):
        model(random_tokens(1, MAX_TOKENS + 1))


# Graphs, precision and files.


@small_models
def test_mixed_precision_keeps_logits_and_variables_in_float32(name, mixed_float16):
    model, inputs = small_model(name), random_inputs(name, 4)
    logits = model(inputs, training=True)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    compute = {layer.compute_dtype for layer in model.layers}
    assert "float16" in compute, "no layer computes in float16"
    if name in TEXT_MODELS:
        padded = np.pad(inputs, [(0, 0), (0, 5)])
        np.testing.assert_allclose(logits_of(model, padded), logits_of(model, inputs), atol=5e-3)
        assert np.isfinite(logits_of(model, np.zeros((2, 5), "int32"))).all()


@small_models
def test_a_saved_and_loaded_model_is_the_same(name, tmp_path):
    model, inputs = small_model(name), random_inputs(name, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.variables] == [v.path for v in model.variables]
    assert loaded.name == model.name
    np.testing.assert_array_equal(logits_of(loaded, inputs), logits_of(model, inputs))


@small_models
def test_an_exported_model_answers_the_same_for_any_batch_and_length(name, tmp_path):
    model, batches = small_model(name), [random_inputs(name, count) for count in (1, 3)]
    if name in TEXT_MODELS:
        batches += [random_tokens(2, length=1), random_tokens(3, length=MAX_TOKENS)]
    model.export(tmp_path, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    for batch in batches:
        np.testing.assert_allclose(exported.serve(batch), logits_of(model, batch), atol=1e-5)


# Learning.


def assert_one_step_lowers_the_loss(model, inputs, learning_rate):
    """Take one SGD step in a graph that knows neither batch nor length."""
    labels = np.arange(len(inputs)) % CLASSES
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    specs = [(model.input.shape, model.input.dtype), ([None], tf.int64)]

    @tf.function(input_signature=[tf.TensorSpec(*spec) for spec in specs])
    def loss_and_gradients(inputs, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(inputs, training=True))
        return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

    before, gradients = loss_and_gradients(inputs, labels)
    assert all(gradient is not None for gradient in gradients)
    keras.optimizers.SGD(learning_rate).apply(gradients, model.trainable_variables)
    after, _ = loss_and_gradients(inputs, labels)  # with BatchNorm as in the step
    assert after < before


@small_models
def test_one_step_lowers_the_loss(name):
    keras.utils.set_random_seed(1)
    assert_one_step_lowers_the_loss(small_model(name, dropout=0), random_inputs(name, 16), 0.01)


@pytest.mark.full_matrix
def test_one_step_of_resnet50_lowers_the_loss(resnet50):
    assert_one_step_lowers_the_loss(resnet50, random_images(8, pixels=32), 1e-3)


def test_dropout_works_in_training_alone_and_keeps_the_mean():
    dropout = models.layers.Dropout(0.25, name="drop")
    ones = np.ones((100, 100), "float32")
    np.testing.assert_array_equal(dropout(ones), ones)
    dropped = keras.ops.convert_to_numpy(dropout(ones, training=True))
    assert set(np.unique(dropped.round(4))) == {0, np.float32(1.3333)}
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    again = keras.ops.convert_to_numpy(dropout(ones, training=True))
    assert (dropped != again).any()


# What this package may know.


def test_models_import_neither_the_application_nor_horovod():
    allowed = {"collections", "typing", "keras", "models"}
    for file in Path(models.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: a relative import"
                imported = {(node.module or "").split(".")[0]}
            else:
                continue
            assert imported <= allowed, f"{file.name} imports {imported - allowed}"
