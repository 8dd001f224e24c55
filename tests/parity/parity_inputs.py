"""Images, objects and weights that look trained: the same numbers wherever they are made.

Both sides of a comparison make their own by numpy's RandomState, whose streams never change, so
nothing of this has to be stored. Names of weights are MMDetection's.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Shapes = Mapping[str, tuple[int, ...]]


class Objects(NamedTuple):
    """Ground truth of one image."""

    boxes: Array  # (G, 4) float32 XYXY in pixels
    classes: Array  # (G,) int64
    masks: Array  # (G, H, W) bool


def random_image(seed: int, height: int, width: int) -> Array:
    """(H, W, 3) uint8 RGB: flat patches of 24 pixels under noise."""
    rng = np.random.RandomState(seed)
    patches = rng.randint(0, 200, (height // 24 + 1, width // 24 + 1, 3))
    smooth = patches.repeat(24, axis=0).repeat(24, axis=1)[:height, :width]
    return (smooth + rng.randint(0, 56, (height, width, 3))).astype(np.uint8)


def random_objects(seed: int, height: int, width: int, count: int, num_classes: int) -> Objects:
    """Ellipses, every second one in stripes; boxes off the pixel grid. Integers throughout."""
    rng = np.random.RandomState(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.int64)
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, height, width), bool)
    for mask, box in zip(masks, boxes):
        x, y = rng.randint(0, width), rng.randint(0, height)
        a, b = rng.randint(width // 20 + 2, width // 3), rng.randint(height // 20 + 2, height // 3)
        mask[:] = (columns - x) ** 2 * b * b + (rows - y) ** 2 * a * a <= a * a * b * b
        if rng.randint(2):
            mask &= (rows // 9 + columns // 11) % 4 != 0
        mask[y, x] = True
        ys, xs = np.nonzero(mask)
        box[:] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    boxes += rng.randint(0, 8, (count, 4)) / 8
    return Objects(boxes, rng.randint(0, num_classes, count).astype(np.int64), masks)


def trained_looking(shapes: Shapes, seed: int) -> dict[str, Array]:
    """Weights for a QueryInst in MMDetection's names, float32.

    Batch norms have statistics, queries have boxes of all sizes, scores and boxes spread as those
    of a trained network do. Every tensor depends on its name, its shape and the seed alone.

    Raises:
        KeyError: a name that no rule takes.
    """
    return {name: _values(name, shapes, seed) for name in shapes}


def _values(name: str, shapes: Shapes, seed: int) -> Array:
    rng = np.random.RandomState((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**32)
    for pattern, make in _RULES:
        if re.fullmatch(pattern, name):
            return np.asarray(make(rng, name, shapes)).astype(np.float32)
    raise KeyError(name)


def _normal(std: float, mean: float = 0.0):
    return lambda rng, name, shapes: mean + std * rng.standard_normal(shapes[name])


def _uniform(low: float, high: float):
    return lambda rng, name, shapes: rng.uniform(low, high, shapes[name])


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    field = int(np.prod(shape[2:]))
    return shape[1] * field, shape[0] * field


def _xavier(rng, name: str, shapes: Shapes, gain: float = 1.0) -> Array:
    bound = gain * (6 / sum(_fans(shapes[name]))) ** 0.5
    return rng.uniform(-bound, bound, shapes[name])


def _kaiming_fan_out(rng, name: str, shapes: Shapes) -> Array:
    return (2 / _fans(shapes[name])[1]) ** 0.5 * rng.standard_normal(shapes[name])


def _linear(rng, name: str, shapes: Shapes, gain: float = 1.0) -> Array:
    """PyTorch's default for weights and biases of linear layers and convolutions."""
    weight = name.rpartition(".")[0] + ".weight"
    bound = gain * _fans(shapes[weight])[0] ** -0.5
    return rng.uniform(-bound, bound, shapes[name])


def _norm_or_linear_bias(rng, name: str, shapes: Shapes) -> Array:
    if len(shapes[name.removesuffix("bias") + "weight"]) == 1:
        return _normal(0.1)(rng, name, shapes)
    return _linear(rng, name, shapes)


def _norm_or_xavier_weight(rng, name: str, shapes: Shapes) -> Array:
    return (_uniform(0.7, 1.3) if len(shapes[name]) == 1 else _xavier)(rng, name, shapes)


def _query_boxes(rng, name: str, shapes: Shapes) -> Array:
    """Centers all over the image, sides from a ninth of it to more than all of it."""
    num_queries = shapes[name][0]
    sides = np.array([60, 85, 150, 170, 290, 330, 500, 800])[np.arange(num_queries) % 8] / 512
    ratios = np.exp(rng.uniform(-0.4, 0.4, num_queries))
    centers = 0.15 + 0.7 * rng.random_sample((num_queries, 2))
    return np.column_stack([centers, sides * ratios, sides / ratios])


def _box_deltas(rng, name: str, shapes: Shapes) -> Array:
    is_narrow = shapes[name][1] < 100
    return _normal(0.04 if is_narrow else 0.012)(rng, name, shapes)


_BOX_HEAD, _MASK_HEAD = r"roi_head\.bbox_head\.\d+\.", r"roi_head\.mask_head\.\d+\."
_BATCH_NORM = r"(backbone\..*(bn\d|downsample\.1)|roi_head\.mask_head\.\d+\.convs\.\d+\.bn)\."

_RULES: tuple[tuple[str, Callable], ...] = (
    (r".*num_batches_tracked", lambda rng, name, shapes: 3),
    (r"backbone\..*bn3\.weight", _uniform(0.18, 0.38)),
    (_BATCH_NORM + "weight", _uniform(0.5, 1.1)),
    (_BATCH_NORM + "(bias|running_mean)", _normal(0.1)),
    (_BATCH_NORM + "running_var", _uniform(0.5, 1.5)),
    (r"backbone\..*weight", _kaiming_fan_out),
    (r"neck\..*weight", _xavier),
    (r"neck\..*bias", _normal(0.05)),
    (r"rpn_head\.init_proposal_bboxes\.weight", _query_boxes),
    (r"rpn_head\.init_proposal_features\.weight", _normal(1.0)),
    (_BOX_HEAD + r"attention\.attn\..*bias", _normal(0.05)),
    (_BOX_HEAD + r"fc_cls\.weight", lambda *args: _xavier(*args, gain=1.6)),
    (_BOX_HEAD + r"fc_cls\.bias", _normal(0.5, mean=-2.0)),
    (_BOX_HEAD + r"fc_reg\.weight", _box_deltas),
    (_BOX_HEAD + r"fc_reg\.bias", _normal(0.02)),
    (_BOX_HEAD + r".*weight", _norm_or_xavier_weight),
    (_BOX_HEAD + r".*bias", _norm_or_linear_bias),
    (_MASK_HEAD + r"convs\.\d+\.conv\.weight", _kaiming_fan_out),
    (_MASK_HEAD + r"conv_logits\.weight", lambda *args: _linear(*args, gain=4.0)),
    (_MASK_HEAD + r".*norm_(in|out)\.weight", _uniform(0.7, 1.3)),
    (_MASK_HEAD + r".*(weight|bias)", lambda *args: _mask_linear(*args)),
)


def _mask_linear(rng, name: str, shapes: Shapes) -> Array:
    if name.endswith("bias"):
        return _norm_or_linear_bias(rng, name, shapes)
    return _linear(rng, name, shapes)
