"""Encoders in the layout of BERT: what is read of a directory, and what the network computes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy

import models
from app.config import Config
from app.errors import UserError
from app.pretrained import find
from tests.single.pretrained.bert_files import (
    DISTIL,
    SIZES,
    WORDS,
    hidden_states,
    tensors_of,
    write_encoder,
)

TEXTS = [
    *([3, 6, 7, 4], [3, 4], [3, 9, *range(6, 16), 16, 17, 8, 4]),
    [3, *[6 + i % 10 for i in range(30)], 4],
]


def config_of(place: Path, **data) -> Config:
    return Config.model_validate(
        {
            "data": {"dataset": "pydocs", "max_tokens": 32} | data,
            "model": {"model": "bert", "pretrained": place},
        }
    )


def network_of(place: Path, dropout: float = 0.0) -> keras.Model:
    config = config_of(place)
    found = find.find(config)
    assert found is not None
    network = models.build_text_model(
        "bert", len(WORDS), 5, max_tokens=32, dropout=dropout, pretrained=found.network
    )
    find.load(config, found, network)
    return network


def padded(texts: list[list[int]], length: int) -> np.ndarray:
    return np.array([[*text, *[0] * (length - len(text))] for text in texts], np.int32)


def states(network: keras.Model, ids: np.ndarray, blocks: int = 3) -> np.ndarray:
    last = network.get_layer(f"block{blocks:02d}").output
    return keras.ops.convert_to_numpy(keras.Model(network.input, last)(ids))


@pytest.mark.parametrize("config", [SIZES, DISTIL], ids=["bert", "distilbert"])
@pytest.mark.parametrize("padding", [0, 1, 5])
def test_hidden_states_are_those_of_an_independent_forward_pass(tmp_path, config, padding) -> None:
    network = network_of(write_encoder(tmp_path, config))
    found = states(network, padded(TEXTS, 32 + padding))
    wanted = [hidden_states(config, tensors_of(config), text) for text in TEXTS]
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-5)


@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_a_text_alone_has_the_same_states(tmp_path, text) -> None:
    network = network_of(write_encoder(tmp_path))
    wanted = hidden_states(SIZES, tensors_of(SIZES), text)
    np.testing.assert_allclose(states(network, padded([text], len(text))), wanted, atol=1e-5)


def test_tanh_gelu_would_be_seen(tmp_path) -> None:
    network = network_of(write_encoder(tmp_path, SIZES | {"hidden_act": "gelu_new"}))
    wanted = hidden_states(SIZES, tensors_of(SIZES), TEXTS[0])
    assert np.abs(states(network, padded(TEXTS[:1], 4)) - wanted).max() > 1e-4


def test_a_text_is_the_mean_of_its_tokens_or_the_first(tmp_path) -> None:
    network = network_of(write_encoder(tmp_path))
    pooled = keras.Model(network.input, network.get_layer("pool").output)
    found = keras.ops.convert_to_numpy(pooled(padded(TEXTS, 34)))
    of_text = [hidden_states(SIZES, tensors_of(SIZES), text) for text in TEXTS]
    np.testing.assert_allclose(found, [one.mean(0) for one in of_text], atol=1e-5)
    network.get_layer("pool").pooling = "first"
    found = keras.ops.convert_to_numpy(pooled(padded(TEXTS, 34)))
    np.testing.assert_allclose(found, [one[0] for one in of_text], atol=1e-5)


def test_no_text_and_a_text_of_only_padding_are_finite(tmp_path) -> None:
    network = network_of(write_encoder(tmp_path))
    assert network(np.zeros((0, 7), np.int32)).shape == (0, 5)
    logits = network(padded([[], [3, 4]], 4))
    assert np.isfinite(keras.ops.convert_to_numpy(logits)).all()


def test_shards_prefixes_and_old_names_are_read(tmp_path) -> None:
    whole = network_of(write_encoder(tmp_path / "whole"))
    place = write_encoder(tmp_path / "shards")
    (place / "model.safetensors").unlink()
    renamed = {
        f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}": array
        for name, array in tensors_of(SIZES).items()
    }
    index = {}
    for number in range(2):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        part = dict(list(renamed.items())[number::2])
        safetensors.numpy.save_file(part, place / file)
        index |= dict.fromkeys(part, file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    ids = padded(TEXTS, 33)
    np.testing.assert_array_equal(states(network_of(place), ids), states(whole, ids))


def test_tensors_in_float16_are_read(tmp_path) -> None:
    halves = {name: array.astype(np.float16) for name, array in tensors_of(SIZES).items()}
    network = network_of(write_encoder(tmp_path, tensors=halves))
    wanted = hidden_states(SIZES, halves, TEXTS[0])
    np.testing.assert_allclose(states(network, padded(TEXTS[:1], 4)), wanted, atol=1e-5)


@pytest.mark.parametrize(("policy", "bound"), [("mixed_bfloat16", 0.15), ("mixed_float16", 0.02)])
def test_half_precision_computes_about_the_same(tmp_path, policy, bound) -> None:
    place, ids = write_encoder(tmp_path), padded(TEXTS, 34)
    wanted = [hidden_states(SIZES, tensors_of(SIZES), text) for text in TEXTS]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = network_of(place)
    finally:
        keras.config.set_dtype_policy(before)
    found = states(network, ids).astype(np.float32)
    assert 0 < np.abs(found - np.concatenate(wanted)).max() < bound
    assert network(ids).dtype == np.float32
    assert {variable.dtype for variable in network.trainable_variables} == {"float32"}


def without(name: str):
    return lambda place: (place / name).unlink()


def changed(**values):
    def change(place: Path) -> None:
        found = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(found | values))

    return change


def only_pickle(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def no_tensors(place: Path) -> None:
    (place / "model.safetensors").write_bytes(b"nothing")


def cut_tensor(place: Path) -> None:
    tensors = tensors_of(SIZES)
    del tensors["encoder.layer.2.output.dense.bias"]
    safetensors.numpy.save_file(tensors, place / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "holds no config.json"),
        (without("model.safetensors"), "holds no model.safetensors"),
        (without("vocab.txt"), "vocab.txt"),
        (only_pickle, "pytorch_model.bin, a pickle"),
        (no_tensors, "cannot be read as safetensors"),
        (cut_tensor, "no 'encoder.layer.2.output.dense.bias'"),
        (changed(model_type="roberta"), "a model of type 'roberta'"),
        (changed(hidden_size=48), r"has the shape \(18, 24\), and config.json implies \(18, 48\)"),
        (changed(hidden_size="wide"), "hidden_size is 'wide'"),
        (changed(hidden_act="silu"), "hidden_act is 'silu'"),
        (changed(num_attention_heads=5), "24 cannot be dealt to 5 heads"),
        (changed(position_embedding_type="relative_key"), "position_embedding_type"),
    ],
)
def test_a_directory_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path, spoil, message
) -> None:
    spoil(write_encoder(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        find.find(config_of(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_another_model_is_refused(tmp_path) -> None:
    write_encoder(tmp_path, words=[*WORDS, "more"])
    with pytest.raises(UserError, match="vocabulary has 19 tokens and the encoder 18"):
        find.find(config_of(tmp_path))


def test_texts_longer_than_the_encoder_reads_are_refused(tmp_path) -> None:
    write_encoder(tmp_path)
    with pytest.raises(UserError, match="max_tokens = 33: .* at most 32"):
        find.find(config_of(tmp_path, max_tokens=33))


def test_numbers_that_are_not_finite_are_refused(tmp_path) -> None:
    tensors = tensors_of(SIZES)
    tensors["embeddings.LayerNorm.bias"][3] = np.nan
    write_encoder(tmp_path, tensors=tensors)
    with pytest.raises(UserError, match=r"'embeddings.LayerNorm.bias' holds numbers"):
        network_of(tmp_path)
