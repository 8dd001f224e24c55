"""Convolutions in 8 bits, by ONNX Runtime's static quantization."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from queryinst_runtime.description import Description
from queryinst_runtime.resizing import network_size, resize, to_batch
from queryinst_runtime.session import INPUTS


def quantize(proto: Any, about: Description, images: Sequence[np.ndarray]) -> Any:
    """The graph with weights and inputs of its convolutions in 8 bits.

    Linear layers stay as they are: they cost boxes and masks more than they save. Weights take 7
    of the 8 bits, since sums of products overflow on x86 processors without VNNI otherwise.

    Args:
        proto: an ``onnx.ModelProto`` of float32.
        images: (H, W, 3) uint8, RGB, which tell the range of each convolution's inputs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, written = (os.path.join(folder, f"{step}.onnx") for step in range(3))
        onnx.save(proto, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            written,
            _Images(about, images),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(written)


class _Images:
    """A ``CalibrationDataReader`` of ONNX Runtime."""

    def __init__(self, about: Description, images: Sequence[np.ndarray]):
        self.about = about
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        if image is None:
            return None
        size = network_size(image.shape[0], image.shape[1], self.about)
        resized = resize(image, size, self.about.resize_with)
        return dict(zip(INPUTS, to_batch([resized], self.about)))
