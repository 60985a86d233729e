"""Small encoders in the layout of Hugging Face's directories, and what they compute, in NumPy."""

import json
import math
from pathlib import Path

import numpy as np
import safetensors.numpy

WORDS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##a", "##b"]
SIZES = {
    "model_type": "bert",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "vocab_size": len(WORDS),
}
DISTIL = {
    "model_type": "distilbert",
    "dim": 24,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 32,
    "activation": "gelu",
    "vocab_size": len(WORDS),
}
BLOCK = {
    "bert": [
        *("attention.self.query", "attention.self.key", "attention.self.value"),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    ],
    "distilbert": [
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
        *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
    ],
}
ROOM = {"bert": "encoder.layer", "distilbert": "transformer.layer"}


def tensors_of(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors by the names that `transformers` gives them, float32."""
    random = np.random.default_rng(seed)
    kind = config["model_type"]
    width = config.get("hidden_size") or config["dim"]
    hidden = config.get("intermediate_size") or config["hidden_dim"]
    rows = {
        "word_embeddings": config["vocab_size"],
        "position_embeddings": config["max_position_embeddings"],
        "token_type_embeddings": config.get("type_vocab_size", 0),
    }
    found = {
        f"embeddings.{name}.weight": random.normal(0, 0.5, (n, width))
        for name, n in rows.items()
        if n
    }

    def norm(name):
        found[f"{name}.weight"] = random.normal(1, 0.2, width)
        found[f"{name}.bias"] = random.normal(0, 0.2, width)

    norm("embeddings.LayerNorm")
    for block in range(config.get("num_hidden_layers") or config["n_layers"]):
        for part in BLOCK[kind]:
            name = f"{ROOM[kind]}.{block}.{part}"
            if part.lower().endswith("norm"):
                norm(name)
                continue
            expands = part in ("intermediate.dense", "ffn.lin1")
            shrinks = part in ("output.dense", "ffn.lin2")
            out, into = hidden if expands else width, hidden if shrinks else width
            found[f"{name}.weight"] = random.normal(0, into**-0.5, (out, into))
            found[f"{name}.bias"] = random.normal(0, 0.2, out)
    return {name: array.astype(np.float32) for name, array in found.items()}


def write_encoder(
    place: Path, config: dict = SIZES, tensors: dict | None = None, words: list = WORDS
) -> Path:
    """A directory as it is downloaded."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    safetensors.numpy.save_file(tensors or tensors_of(config), place / "model.safetensors")
    return place


def hidden_states(config: dict, tensors: dict, ids: list[int]) -> np.ndarray:
    """The last hidden states of one text without padding, (T, C), computed in float64."""
    kind = config["model_type"]
    of = {name: array.astype(np.float64) for name, array in tensors.items()}
    epsilon, heads = 1e-12, config.get("num_attention_heads") or config["n_heads"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * of[f"{name}.weight"] + of[f"{name}.bias"]

    x = of["embeddings.word_embeddings.weight"][ids]
    x = x + of["embeddings.position_embeddings.weight"][: len(ids)]
    if kind == "bert":
        x = x + of["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for block in range(config.get("num_hidden_layers") or config["n_layers"]):
        names = [f"{ROOM[kind]}.{block}.{part}" for part in BLOCK[kind]]
        query, key, value, attended, attended_norm, expand, project, project_norm = names

        def dense(x, name):
            return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]

        parts = [np.split(dense(x, name), heads, axis=-1) for name in (query, key, value)]
        read = []
        for q, k, v in zip(*parts, strict=True):
            scores = q @ k.T / math.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            read.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = norm(x + dense(np.concatenate(read, -1), attended), attended_norm)
        y = dense(x, expand)
        y = 0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = norm(x + dense(y, project), project_norm)
    return x
