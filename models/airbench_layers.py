"""What the network of airbench has that others do not (Jordan 2024, arXiv 2404.00498)."""

from typing import Any

import keras
import numpy as np
from keras import ops

PATCH_PIXELS = 2
GELU_SLOPE = 1.702
EPSILON = 5e-4  # of the mean variance: keeps what hardly varies from being blown up


@keras.saving.register_keras_serializable(package="lockstep")
class Whiten(keras.layers.Layer):
    """A 2x2 convolution whose outputs are, and stay, uncorrelated over images, each of variance 1:
    images (B, H, W, C) -> (B, H-1, W-1, 8 * C), of which the second half is minus the first.

    Its kernel does not learn; `adapt_to_images` sets it. Its bias learns.
    """

    def build(self, shape: Any) -> None:
        size = PATCH_PIXELS**2 * shape[-1]
        self.kernel = self.add_weight(
            shape=(PATCH_PIXELS, PATCH_PIXELS, shape[-1], 2 * size),
            initializer=keras.initializers.Orthogonal(),
            trainable=False,
            name="kernel",
        )
        self.bias = self.add_weight(shape=(2 * size,), initializer="zeros", name="bias")

    def adapt_to_images(self, images: np.ndarray) -> None:
        """Whiten patches like those of `images`, float (n, H, W, C), as the layer is given them."""
        views = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
        # (n, H-1, W-1, C, 2, 2) -> rows in the order of the kernel's axes
        patches = np.moveaxis(views, 3, -1).reshape(-1, views.shape[3] * PATCH_PIXELS**2)
        patches = patches.astype(np.float64)
        mean = patches.mean(axis=0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        values, vectors = np.linalg.eigh(covariance)
        # An eigenvector's sign is arbitrary: the largest element is positive.
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(values))])
        scaled = vectors * signs / np.sqrt(np.maximum(values, 0) + EPSILON * values.mean())
        both = np.concatenate([scaled, -scaled], axis=1)  # (patch, 2 * patch)
        self.kernel.assign(both.reshape(self.kernel.shape))
        self.bias.assign(-mean @ both)

    def call(self, images: Any) -> Any:
        x = ops.conv(images, ops.cast(self.kernel, images.dtype), padding="valid")
        return x + ops.cast(self.bias, x.dtype)


@keras.saving.register_keras_serializable(package="lockstep")
class WithViews(keras.layers.Layer):
    """In inference, six views of each image: itself, moved by a pixel up and to the left, and down
    and to the right; and these mirrored, left to right: (B, H, W, C) -> (6 * B, H, W, C)."""

    def call(self, images: Any, training: bool = False) -> Any:
        if training:
            return images
        height, width = ops.shape(images)[1:3]
        wide = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
        moved = [images, wide[:, 2:, 2:], wide[:, :height, :width]]
        return ops.concatenate([*moved, *(ops.flip(one, axis=2) for one in moved)], axis=0)


@keras.saving.register_keras_serializable(package="lockstep")
class MeanOfViews(keras.layers.Layer):
    """In inference, the mean of what the views of `WithViews` gave, those that are not moved
    counting twice: (6 * B, N) -> (B, N)."""

    def call(self, outputs: Any, training: bool = False) -> Any:
        if training:
            return outputs
        own, up, down, *mirrored = ops.split(outputs, 6)
        return (2 * (own + mirrored[0]) + up + down + mirrored[1] + mirrored[2]) / 8


@keras.saving.register_keras_serializable(package="lockstep")
class Dirac(keras.initializers.Initializer):
    """Kernels (h, w, in, out) whose first `in` filters pass their inputs on unchanged; the others
    are uniform between +-1 / sqrt(fan in), as in PyTorch."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        kernel = np.array(uniform(shape, dtype="float32"))
        passed = min(shape[2], shape[3])
        kernel[..., :passed] = 0
        kernel[shape[0] // 2, shape[1] // 2, range(passed), range(passed)] = 1
        return ops.convert_to_tensor(kernel, dtype=dtype or "float32")

    def get_config(self) -> dict[str, Any]:
        return {}


@keras.saving.register_keras_serializable(package="lockstep")
def gelu(x: Any) -> Any:
    """GELU in its simplest approximation, x * sigmoid(1.702 * x) (Hendrycks and Gimpel
    2016, arXiv:1606.08415, section 2), with a gradient that computes nothing twice."""

    @ops.custom_gradient
    def gated(x: Any) -> Any:
        gate = ops.sigmoid(GELU_SLOPE * x)
        product = x * gate

        def gradient(upstream: Any) -> Any:
            return upstream * (gate + GELU_SLOPE * product * (1 - gate))

        return product, gradient

    return gated(x)
