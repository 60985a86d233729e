"""A trained run as a model that needs only TensorFlow, with its preprocessing inside.

What is written is loaded again in a fresh process, which has neither `app/` nor Horovod, and is
compared with the run's own classifier. Only then does it get its name.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from app.build import build_classifier
from app.commands.check_export import Samples, check_export, read_samples
from app.commands.export import NAMES
from app.commands.model_card import Export, Signature, model_card, output_names, prefix_of
from app.commands.saved_run import SavedRun, calibrated, open_run
from app.data.batches import padded
from app.data.images import decode_batch
from app.errors import UserError
from app.rundir.contents import write_file
from app.rundir.files import RunFiles
from app.version import code_version
from models.layers import BatchNormalization, Dropout

BYTES, TEXT = Signature("serving_default", "bytes"), Signature("serving_default", "text")
ARRAYS, ARRAYS_TOO = Signature("serving_default", "array"), Signature("serving_arrays", "array")
SIGNATURES = {
    ("savedmodel", "image"): (BYTES, ARRAYS_TOO),
    ("savedmodel", "text"): (TEXT,),
    ("keras", "image"): (ARRAYS,),
    ("tflite", "image"): (ARRAYS,),
}
REFUSED = {
    "keras": "a .keras file that loads without Lockstep's code can hold only Keras' own layers, "
    "and none of them normalises Unicode as in this model's training",
    "tflite": "texts need TensorFlow's string operations, and the tf.lite.Interpreter of "
    "TensorFlow 2.20 cannot run them (it has no Flex delegate: github.com/google-ai-edge/LiteRT "
    "issue 6458), so the file could not be checked",
}
OTHER_FORMAT = (
    "use --format savedmodel, which Keras opens too: keras.layers.TFSMLayer(PATH, call_endpoint="
)


def export(
    run_dir: Path,
    format: str,
    output: Path | None,
    quantize: str | None,
    checkpoint: str = "newest",
    weights: str | None = None,
) -> Path:
    """Write the run in `run_dir` as `format`, with a model card beside it; returns its path.

    Args:
        run_dir: the directory of a run with a checkpoint.
        format: "keras", "savedmodel" or "tflite"; see SIGNATURES for what each takes.
        output: the new file or directory; None for RUN/export/NAME.
        quantize: for tflite, "float16" or "int8" (dynamic range) weights; None for float32.
        checkpoint: "newest", "best", or the name of one.
        weights: "ema", "last", or None for the moving average if the run keeps one.

    Raises:
        UserError: the run or the output cannot be used, this kind of model cannot be exported in
            this format, or the export's predictions differ from the run's. Nothing is left then.
    """
    run = open_run(run_dir, checkpoint, weights)
    if (format, run.kind) not in SIGNATURES:
        raise UserError(
            f"--format {format}: {run_dir} holds a model of texts, and {REFUSED[format]}: "
            f"{OTHER_FORMAT}'serving_default')"
        )
    output = output or RunFiles(run_dir).exports / _default_name(format, quantize)
    card = output.with_name(f"{output.name}.md")
    _check_output(output, card, format)
    samples = read_samples(run)
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        exported = _write_and_check(run, samples, partial, output, format, quantize)
        write_file(card, model_card(run, exported, code_version()))
        try:
            os.replace(partial / output.name, output)
        except OSError:
            card.unlink()
            raise
    except (OSError, tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError) as error:
        raise UserError(f"cannot write {output}: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{output}: {exported.size_bytes:,} bytes\nchecked: {exported.checked}\ncard: {card}")
    return output


def _default_name(format: str, quantize: str | None) -> str:
    return f"model-{quantize}.tflite" if quantize else NAMES[format]


def _check_output(output: Path, card: Path, format: str) -> None:
    suffix = Path(NAMES[format]).suffix
    if suffix and output.suffix != suffix:
        raise UserError(f"--output {output}: the name of a {format} export ends with {suffix}")
    for path in (output, card):
        if path.exists():
            raise UserError(f"{path} exists already: remove it, or give another --output")


def _write_and_check(
    run: SavedRun, samples: Samples, partial: Path, output: Path, format: str, quantize: str | None
) -> Export:
    """Write the export into the directory `partial`, under its final name, and check it."""
    network, path = _float32_network(run), partial / output.name
    if format == "savedmodel":
        _write_savedmodel(run, network, path)
    elif format == "keras":
        _write_keras(run, network, path)
    else:
        _write_tflite(run, network, path, quantize)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size_bytes = sum(file.stat().st_size for file in files)
    signatures = SIGNATURES[format, run.kind]
    checks = check_export(run, network, samples, path, format, signatures, exact=quantize is None)
    return Export(output, format, quantize, signatures, size_bytes, checks)


def _float32_network(run: SavedRun) -> keras.Model:
    """The run's network. Trained in mixed precision, it has float32 weights: it is built again to
    compute in float32 too, which every device can do."""
    if run.config.training.precision == "float32":
        return run.classifier.network
    training = run.config.training.model_copy(update={"precision": "float32"})
    config = run.config.model_copy(update={"training": training})
    network = build_classifier(config, run.plan).network
    network.set_weights(run.classifier.network.get_weights())
    return network


def _answers(run: SavedRun, logits: Any) -> dict[str, tf.Tensor]:
    """The outputs of a signature by name; see `output_names`."""
    found: dict[str, tf.Tensor] = {}
    for head, of_head in zip(run.heads, tf.nest.flatten(logits), strict=True):
        probabilities, class_, label = output_names(run, head)
        classes = tf.argmax(of_head, axis=-1)
        found[probabilities] = tf.nn.softmax(calibrated(run, head, of_head))
        found[class_] = classes
        found[label] = tf.gather(tf.constant(list(head.class_names)), classes)
    return found


def _write_savedmodel(run: SavedRun, network: keras.Model, path: Path) -> None:
    """Signatures with one input, `inputs`, and the asset class_names.json, one for each label."""
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    assets = []
    for head in run.heads:
        file = path.with_name(f"{prefix_of(run, head)}class_names.json")
        names = json.dumps(list(head.class_names), ensure_ascii=False)
        file.write_text(names, encoding="utf-8")
        assets.append(tf.saved_model.Asset(str(file)))
    module.class_names = assets if len(assets) > 1 else assets[0]
    if run.kind == "text":
        signatures = {TEXT.name: _text_signature(run, network, module)}
    else:
        signatures = {
            BYTES.name: _bytes_signature(run, network),
            ARRAYS_TOO.name: _array_signature(run, network),
        }
    tf.saved_model.save(module, str(path), signatures)


def _text_signature(run: SavedRun, network: keras.Model, module: tf.Module) -> Callable:
    module.tokenizer_tables = run.tokenizer.tables

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")], autograph=False)
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = padded(run.tokenizer.ids_of(inputs))
        return _answers(run, network(ids, training=False))

    return serve


def _bytes_signature(run: SavedRun, network: keras.Model) -> Callable:
    spec, (height, width, _) = run.image_spec, run.image_shape

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")], autograph=False)
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        images = decode_batch(inputs, spec, (height, width))
        return _answers(run, network(tf.cast(images, tf.float32), training=False))

    return serve


def _array_signature(run: SavedRun, network: keras.Model) -> Callable:
    images = tf.TensorSpec([None, *run.image_shape], tf.uint8, "inputs")

    @tf.function(input_signature=[images], autograph=False)
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return _answers(run, network(tf.cast(inputs, tf.float32), training=False))

    return serve


def _write_keras(run: SavedRun, network: keras.Model, path: Path) -> None:
    """The same network with only Keras' own layers: our `Dropout` does nothing here, and our
    `BatchNormalization` is Keras' with another kernel."""

    def plain(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, Dropout):
            return keras.layers.Identity(name=layer.name)
        if isinstance(layer, BatchNormalization):
            return keras.layers.BatchNormalization.from_config(layer.get_config())
        if not type(layer).__module__.startswith("keras."):
            raise UserError(
                f"--format keras: this model has layers that are not Keras' own ('{layer.name}' is "
                f"a {type(layer).__name__}), so the file would not load without Lockstep's code: "
                f"{OTHER_FORMAT}'serving_arrays')"
            )
        return type(layer).from_config(layer.get_config())

    inputs = keras.Input(run.image_shape, dtype="uint8", name="inputs")
    copy = keras.models.clone_model(network, input_tensors=inputs, clone_function=plain)
    copy.set_weights(network.get_weights())
    outputs: dict[str, Any] = {}
    for head, logits in zip(run.heads, copy.outputs, strict=True):
        probabilities, class_, label = output_names(run, head)
        classes = keras.ops.cast(keras.ops.argmax(logits, axis=-1), "int64")
        name_of = keras.layers.StringLookup(
            vocabulary=list(head.class_names),
            invert=True,
            num_oov_indices=0,
            mask_token=None,
            name=label,
        )
        softmax = keras.layers.Softmax(dtype="float32", name=probabilities)
        shares = softmax(calibrated(run, head, logits))
        outputs |= {probabilities: shares, class_: classes, label: name_of(classes)}
    keras.Model(inputs, outputs, name=network.name).save(path)


def _write_tflite(run: SavedRun, network: keras.Model, path: Path, quantize: str | None) -> None:
    """Quantisation stores the weights as float16, or as int8 per channel or tensor."""
    module = tf.Module()
    module.weights = [weight.value for weight in network.weights]
    module.serve = _array_signature(run, network)
    graph = module.serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], module)
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
