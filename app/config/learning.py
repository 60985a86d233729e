"""[model], [training], [optimizer] and [fine_tuning]: what learns, and how."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from app.config.section import Section
from app.config.values import Numbers, Positive, Share, ShareOrShares
from models.table import MODELS, names_of, residual_names

DEFAULT_PER_RANK_BATCH_SIZE = 32
BATCH_SIZES = ("per_rank_batch_size", "global_batch_size")


class Model(Section):
    """[model]: the network."""

    model: Literal[tuple(MODELS)] = Field(  # type: ignore[valid-type]
        "cnn",
        description=f"{', '.join(names_of('image'))} read images, {', '.join(names_of('text'))} "
        "texts",
    )
    width: Positive | None = Field(
        None, description="filters or embedding width (default: the model's own)"
    )
    dropout: Share | None = Field(None, description="dropout rate (default: the model's own)")
    stochastic_depth: Share | None = Field(
        None,
        description="leave the last block of a residual network out for this share of the images "
        f"in training, and those before it for less; for {', '.join(residual_names())}",
    )
    pretrained: Path | None = Field(
        None,
        description="begin with an encoder that others have trained. bert: a directory with "
        "config.json, model.safetensors and vocab.txt or tokenizer.json, as on Hugging Face. "
        "resnet18, resnet50: a directory of timm with config.json and model.safetensors. "
        "efficientnetv2: a file of EfficientNetV2B0(include_top=False).save_weights(...)",
    )
    pooling: Literal["mean", "first"] = Field(
        "mean", description="bert: a text is the mean of its tokens, or the first one, [CLS]"
    )
    init_from: Path | None = Field(
        None,
        description="begin with the weights of this run, checkpoint or .safetensors file, where "
        "names and shapes are equal",
    )


class Training(Section):
    """[training]: how long, in which batches, in which precision."""

    epochs: Positive = Field(10, description="passes over the training data")
    per_rank_batch_size: Positive | None = Field(
        None,
        description="examples per rank and pass (default 32 if neither size is given, halved until "
        "a step fits the training data)",
    )
    global_batch_size: Positive | None = Field(
        None, description="examples per optimizer step over all ranks and passes"
    )
    backward_passes_per_step: Positive = Field(
        1, description="accumulate gradients over this many passes before each exchange"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32",
        description="Keras dtype policy; mixed_bfloat16 may also pay on CPUs with amx_bf16 (lscpu)",
    )
    task_weights: Numbers | None = Field(
        None,
        description="with several labels, how much the loss of each counts, such as 1,0.3 "
        "(default: the same)",
    )
    label_smoothing: ShareOrShares = Field(
        0.0,
        description="share of each label spread over all classes; with several labels one for "
        "all, or one for each, such as 0.1,0",
    )
    imbalance: Literal["none", "class_weights", "balanced_sampling"] = Field(
        "none",
        description="for classes of unequal size: weight each class's loss by examples / (classes "
        "x its examples), or draw every class equally often (not every example once)",
    )
    stop_after_bad_steps: Positive = Field(
        10,
        description="end the run after so many steps in a row with a loss or gradients that "
        "are not finite; each is left out on all ranks",
    )
    on_loss_spike: Literal["go_on", "go_back"] = Field(
        "go_on",
        description="when the loss jumps: only say so, or go back to the last checkpoint and on "
        "from there at half the learning rate",
    )
    ema_examples: Positive | None = Field(
        None,
        description="keep also a moving average of the weights, over about the last so many "
        "examples: both are validated and tested, and evaluate, predict and export use it",
    )
    early_stopping_epochs: Positive | None = Field(
        None,
        description="end after so many epochs in which validation has not got better: its loss, "
        "or what keep_best names",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="seed of the initial weights, data order, dropout, augmentation and hold-out"
    )

    @pydantic.model_validator(mode="after")
    def _one_batch_size(self) -> "Training":
        if self.per_rank_batch_size and self.global_batch_size:
            raise ValueError("give per_rank_batch_size or global_batch_size, not both")
        return self

    @pydantic.model_validator(mode="after")
    def _weights_count(self) -> "Training":
        if self.task_weights is not None and not (
            self.task_weights and min(self.task_weights) >= 0 and max(self.task_weights) > 0
        ):
            raise ValueError("task_weights must be 0 or more, and not all 0")
        return self

    def examples_per_step(self, world_size: int) -> int:
        """Examples of all ranks and passes in one optimizer step."""
        per_rank = self.examples_per_rank * self.backward_passes_per_step
        return self.global_batch_size or per_rank * world_size

    @property
    def examples_per_rank(self) -> int:
        """Examples of one rank and pass, where no global size is given."""
        return self.per_rank_batch_size or DEFAULT_PER_RANK_BATCH_SIZE


class Optimizer(Section):
    """[optimizer]: the update rule and the learning rate over time."""

    optimizer: Literal["sgd", "adam", "adamw", "lamb", "lars"] = Field(
        "adam",
        description="update rule: 'adamw' is adam with a weight_decay; 'lamb' and 'lars' give each "
        "layer a rate of its own",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        1e-3,
        description="peak, for a global batch of reference_batch_size; with optimizer 'lars' "
        "values of 1 to 30 are common",
    )
    learning_rate_scaling: Literal["linear", "sqrt", "none"] = Field(
        "linear", description="how the peak grows with global batch / reference batch"
    )
    reference_batch_size: Positive = Field(
        64, description="the global batch that learning_rate is meant for"
    )
    schedule: Literal["constant", "cosine", "linear", "step", "one_cycle"] = Field(
        "cosine",
        description="after warm-up: constant, cosine or linear to 0, or factors at epochs; or "
        "'one_cycle', which rises from 1/25 of the peak for 45%% of the run, falls as long, and "
        "ends at 0",
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        0.0, description="epochs of linear rise from 0 to the peak (may be a fraction)"
    )
    step_epochs: Numbers = Field(
        [], description="schedule 'step': the epochs at which the rate is multiplied"
    )
    step_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="schedule 'step': the factor"
    )
    momentum: Share = Field(0.9, description="momentum of sgd and lars")
    nesterov: bool = Field(False, description="sgd: Nesterov's momentum")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="decoupled decay of weight matrices (not of biases or BatchNorm); with lars "
        "part of the gradient",
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="clip the global gradient to this norm"
    )

    @pydantic.model_validator(mode="after")
    def _steps_match_schedule(self) -> "Optimizer":
        if bool(self.step_epochs) != (self.schedule == "step"):
            raise ValueError("step_epochs goes with schedule = 'step', which needs it")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov goes with optimizer = 'sgd' and momentum above 0")
        return self

    @pydantic.model_validator(mode="after")
    def _rises_once(self) -> "Optimizer":
        if self.warmup_epochs and self.schedule == "one_cycle":
            raise ValueError(
                "warmup_epochs does not go with schedule = 'one_cycle', which rises by itself"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _adamw_decays(self) -> "Optimizer":
        if self.optimizer == "adamw" and not self.weight_decay:
            raise ValueError(
                "optimizer = 'adamw' is adam with a decoupled weight_decay: give one, such as 0.01"
            )
        return self


class FineTuning(Section):
    """[fine_tuning]: what is learned of an encoder that is pretrained, and how fast."""

    encoder_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="peak for the last stage of the encoder, scaled as learning_rate is, which the "
        "head keeps (default: the same)",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="each stage before it learns at this times the rate of the next"
    )
    freeze: Literal["none", "embeddings", "encoder"] = Field(
        "none",
        description="do not train, nor exchange: the embeddings of texts, or all but the head",
    )
    unfreeze_epoch: Positive | None = Field(
        None,
        description="train what is frozen from this epoch on (the first one is 0), with a fresh "
        "optimizer and a short warm-up",
    )

    @pydantic.model_validator(mode="after")
    def _unfreezes_what_is_frozen(self) -> "FineTuning":
        if self.unfreeze_epoch and self.freeze == "none":
            raise ValueError("unfreeze_epoch goes with freeze = 'embeddings' or 'encoder'")
        return self
