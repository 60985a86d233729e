"""Encoders in the layout of BERT, as directories of Hugging Face hold them.

A directory has config.json, model.safetensors (or its shards and their index), and the tokenizer.
Names of tensors: those of `transformers`, `BertModel` and `DistilBertModel`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.config import Config
from app.data.text.hf_tokenizer import read_wordpiece
from app.errors import UserError
from app.pretrained.found import Found, Tensors, find_tensors, read_directory

# Of each kind: how its config.json calls the fields of models.bert.BertSizes, and what is the
# default if it does not name them.
KEYS: dict[str, dict[str, tuple[str, Any]]] = {
    "bert": {
        "width": ("hidden_size", 768),
        "blocks": ("num_hidden_layers", 12),
        "heads": ("num_attention_heads", 12),
        "hidden": ("intermediate_size", 3072),
        "positions": ("max_position_embeddings", 512),
        "kinds": ("type_vocab_size", 2),
        "activation": ("hidden_act", "gelu"),
        "epsilon": ("layer_norm_eps", 1e-12),
        "tokens": ("vocab_size", 30522),
    },
    "distilbert": {
        "width": ("dim", 768),
        "blocks": ("n_layers", 6),
        "heads": ("n_heads", 12),
        "hidden": ("hidden_dim", 3072),
        "positions": ("max_position_embeddings", 512),
        "kinds": ("", 0),
        "activation": ("activation", "gelu"),
        "epsilon": ("", 1e-12),
        "tokens": ("vocab_size", 30522),
    },
}
ACTIVATIONS = ("gelu", "gelu_new", "relu")
PREFIXES = ("bert.", "distilbert.")
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# By the paths of models.bert, without "embeddings/" and "blockNN/".
EMBEDDINGS = {
    "token": "word_embeddings",
    "position": "position_embeddings",
    "kind": "token_type_embeddings",
    "norm": "LayerNorm",
}
BLOCKS = {
    "bert": (
        "encoder.layer",
        {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "attended": "attention.output.dense",
            "attended_norm": "attention.output.LayerNorm",
            "expand": "intermediate.dense",
            "project": "output.dense",
            "project_norm": "output.LayerNorm",
        },
    ),
    "distilbert": (
        "transformer.layer",
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attended": "attention.out_lin",
            "attended_norm": "sa_layer_norm",
            "expand": "ffn.lin1",
            "project": "ffn.lin2",
            "project_norm": "output_layer_norm",
        },
    ),
}
MOST_PADDING = 128  # rows that embeddings may have beyond the vocabulary, to be a round number


def read(config: Config, directory: Path) -> Found:
    """Check a directory against itself and the config; reads no weights yet.

    Raises UserError for a file that is missing, damaged, of another kind, or does not fit the
    others; and for texts that are longer than the encoder reads.
    """
    file, found = read_directory(directory)
    network = {"kind": _kind(found, file)} | _sizes(found, file)
    files = find_tensors(directory)
    _tensors(files).check(_shapes(network), directory)
    most = config.data.max_tokens
    if most > network["positions"]:
        raise UserError(
            f"max_tokens = {most}: the encoder in {directory} reads at most "
            f"{network['positions']} tokens"
        )
    tokenizer = read_wordpiece(directory, most)
    words, rows = len(tokenizer["vocabulary"]), network["tokens"]
    if not (words <= rows and rows - words < MOST_PADDING):
        raise UserError(
            f"{directory}: the vocabulary has {words:,} tokens and the encoder {rows:,}: are they "
            "of the same model?"
        )
    return Found(files, network | {"pooling": config.model.pooling}, tokenizer)


def load(found: Found, network: Any) -> None:
    """Put the weights into a network of models.bert, whose head stays as it is.

    Raises UserError for numbers that are not finite.
    """
    tensors = _tensors(found.files)
    names = _names(found.network)
    for variable in network.variables:
        if name := names.get(variable.path):
            array = tensors.read(name)
            variable.assign(array.T if variable.path.endswith("kernel") else array)


def _kind(found: Mapping[str, Any], file: Path) -> str:
    kind = found.get("model_type", "bert")
    if kind not in KEYS:
        raise UserError(
            f"{file}: a model of type '{kind}', and --model bert reads 'bert' and 'distilbert' "
            "(BERT, MiniLM, BGE, E5, GTE, DistilBERT)"
        )
    for key, usual in (("position_embedding_type", "absolute"), ("is_decoder", False)):
        if (given := found.get(key, usual)) != usual:
            raise UserError(f"{file}: {key} is {given!r}, and --model bert has only {usual!r}")
    return kind


def _sizes(found: Mapping[str, Any], file: Path) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for field, (key, default) in KEYS[_kind(found, file)].items():
        value = sizes[field] = found.get(key, default)
        if type(value) not in ((int, float) if field == "epsilon" else (type(default),)):
            raise UserError(f"{file}: {key} is {value!r}: expected {type(default).__name__}")
        if type(value) is int and value < 1 and field != "kinds":
            raise UserError(f"{file}: {key} is {value}: expected at least 1")
    if sizes["activation"] not in ACTIVATIONS:
        key = KEYS[_kind(found, file)]["activation"][0]
        raise UserError(
            f"{file}: {key} is '{sizes['activation']}', and --model bert has "
            f"{', '.join(ACTIVATIONS)}"
        )
    if sizes["width"] % sizes["heads"]:
        raise UserError(
            f"{file}: a width of {sizes['width']} cannot be dealt to {sizes['heads']} heads"
        )
    return sizes


def _tensors(files: Any) -> Tensors:
    return Tensors(files, PREFIXES, OLD_NAMES)


def _names(network: Mapping[str, Any]) -> dict[str, str]:
    """The name of the tensor for each path of a variable in the encoder."""
    parts = {
        f"embeddings/{ours}": f"embeddings.{theirs}"
        for ours, theirs in EMBEDDINGS.items()
        if ours != "kind" or network["kinds"]
    }
    room, block = BLOCKS[network["kind"]]
    for number in range(network["blocks"]):
        for ours, theirs in block.items():
            parts[f"block{number + 1:02d}/{ours}"] = f"{room}.{number}.{theirs}"
    names: dict[str, str] = {}
    for ours, theirs in parts.items():
        if ours.endswith("norm"):
            names |= {f"{ours}/gamma": f"{theirs}.weight", f"{ours}/beta": f"{theirs}.bias"}
        elif ours.startswith("embeddings"):
            names[f"{ours}/embeddings"] = f"{theirs}.weight"
        else:
            names |= {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}
    return names


def _shapes(network: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    width, hidden = network["width"], network["hidden"]
    rows = {"token": network["tokens"], "position": network["positions"], "kind": network["kinds"]}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, name in _names(network).items():
        *_, part, what = path.split("/")
        out = hidden if part == "expand" else width
        if what == "embeddings":
            shapes[name] = rows[part], width
        elif what == "kernel":
            shapes[name] = out, hidden if part == "project" else width
        else:
            shapes[name] = (out,)
    return shapes
