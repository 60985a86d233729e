"""`python -m app data SOURCE`: print what a source holds, or write a copy for fast streaming."""

from pathlib import Path

from app.build import hold_dataset, open_dataset
from app.config import Config
from app.data.bad import BadExamples
from app.data.export import export_tfrecord
from app.data.report import describe
from app.distributed.world import World

NO_LIMIT = 2**31 - 1


def show_data(config: Config, export: Path | None = None) -> None:
    """Print the report of `config.data`, and write the copy if a directory is given; one process.

    Every bad example is listed, however many there are. Raises UserError for what cannot be read.
    """
    bad = BadExamples("skip")
    whole = config.data.model_copy(update={"max_tokens": NO_LIMIT})
    dataset = open_dataset(config, bad, World())
    data = hold_dataset(config.model_copy(update={"data": whole}), dataset, bad, World())
    print(describe(data.dataset, data.splits, data.bad, config.data.max_tokens))
    if export is not None:
        if config.data.on_bad == "error" and bad.found:
            BadExamples("error").add(bad.found[0].where, bad.found[0].reason)
        spec = data.image_spec if config.data.image_size else None
        export_tfrecord(data.dataset, export, config.training.seed, spec)
        print(f"\nwritten to {export}: train on it with --dataset {export}")
