"""Time and peak memory that an exported image model needs for a file of each kind.

    python -m tests.benchmarks.served_images SAVEDMODEL [SAVEDMODEL ...]

Each model and kind gets a fresh process, and the models take turns, so that exports of two versions
can be compared. The time is CPU time for a call with one file, the lower quartile of 12 calls; the
memory is the peak of the process minus what it holds before the first call. Files are like
photographs, 1500x1000 pixels.
"""

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
CALLS = 12


def pixels(channels: int) -> np.ndarray:
    """Smooth colours with some noise, uint8 (1000, 1500, channels)."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (8, 12, channels), np.uint8))
    noise = rng.normal(0, 4, (1000, 1500, channels))
    return np.clip(np.asarray(small.resize((1500, 1000))) + noise, 0, 255).astype(np.uint8)


def encode(channels: int, format: str, orientation: int = 1, **options) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    if orientation > 1:
        options["exif"] = exif
    Image.fromarray(pixels(channels)).save(file, format, **options)
    return file.getvalue()


KINDS = {
    "JPEG": lambda: encode(3, "JPEG"),
    "JPEG, orientation 3": lambda: encode(3, "JPEG", 3),
    "JPEG, orientation 6": lambda: encode(3, "JPEG", 6),
    "PNG": lambda: encode(3, "PNG", compress_level=1),
    "PNG with alpha": lambda: encode(4, "PNG", compress_level=1),
    "WebP": lambda: encode(3, "WEBP", method=0),
    "WebP with alpha": lambda: encode(4, "WEBP", method=0),
}
MEASURING = """
import resource, sys, time
import numpy as np, tensorflow as tf

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
file = tf.constant([sys.stdin.buffer.read()])
before, times = peak(), []
for _ in range(int(sys.argv[2])):
    began = time.process_time()
    try:
        serve(inputs=file)
    except tf.errors.InvalidArgumentError:
        print("refused")
        sys.exit()
    times.append(time.process_time() - began)
print(f"{1000 * np.percentile(times, 25):7.1f} ms {peak() - before:7.0f} MB")
"""


def measure(model: Path, file: bytes) -> str:
    command = [sys.executable, "-c", MEASURING, str(model), str(CALLS)]
    return subprocess.run(command, input=file, capture_output=True, check=True).stdout.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("models", type=Path, nargs="+", help="exports of image runs")
    models = parser.parse_args().models
    for kind, make in KINDS.items():
        file = make()
        for model in models:
            print(f"{kind:20} {len(file):9,} bytes  {measure(model, file).strip()}  {model}")


if __name__ == "__main__":
    main()
