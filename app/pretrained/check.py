"""Finds mistakes in the keys about pretrained weights."""

from app.config import Config, Data, FineTuning
from app.errors import UserError
from models.table import MODELS


def check_fine_tuning(config: Config) -> None:
    """Raise UserError if keys about pretrained weights do not go together; opens no file."""
    wanted, model = config.model, MODELS[config.model.model]
    if model.needs_pretrained:
        _check_encoder_of_texts(config)
    elif wanted.pooling != "mean":
        raise UserError(f"pooling is for model = 'bert', but model = '{model.name}'")
    if wanted.pretrained and wanted.init_from:
        raise UserError("pretrained and init_from both say what to begin with: give one of them")
    if wanted.pretrained and wanted.width:
        raise UserError(f"width = {wanted.width}: pretrained weights bring their own; leave it out")
    begins = wanted.pretrained or (wanted.init_from and model.stages)
    for key, field in FineTuning.model_fields.items():
        if getattr(config.fine_tuning, key) != field.default and not begins:
            raise UserError(f"{key} is for an encoder that is pretrained: give --pretrained")
    if config.fine_tuning.freeze == "embeddings" and model.kind != "text":
        raise UserError("freeze = 'embeddings' is for texts: use freeze = 'encoder'")
    unfreeze, epochs = config.fine_tuning.unfreeze_epoch, config.training.epochs
    if unfreeze and unfreeze >= epochs:
        raise UserError(f"unfreeze_epoch = {unfreeze}: the {epochs} epochs are over by then")


def _check_encoder_of_texts(config: Config) -> None:
    name = config.model.model
    if not config.model.pretrained:
        raise UserError(
            f"model '{name}' is not trained from nothing: give --pretrained DIR, a directory with "
            "config.json, model.safetensors and the tokenizer"
        )
    for key in ("tokens", "vocabulary_size", "ngrams"):
        if getattr(config.data, key) != Data.model_fields[key].default:
            raise UserError(
                f"{key} does not go with model = '{name}', which brings its own tokenizer: leave "
                "it out"
            )
