"""What the goldens and the tests that read them have to agree on."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from parity_cases import NARROW, Batch, make_batch
from parity_inputs import Array

WEIGHTS_SEED = 7
# At this rate the losses of the narrow model fall within the steps.
LONG_STEPS, LONG_RATE = 50, 1e-3

# Name of a record -> how many elements are stored of each of its float tensors.
SAMPLES = {
    "training_plain": 512,
    "training_one_empty": 48,
    "training_none": 48,
    "training_crowded": 48,
    "step": 128,
    "prediction": 512,
    "long_training": 64,
    "edges": 10000,
}


def long_batches() -> list[Batch]:
    """Two small batches that take turns over LONG_STEPS optimizer steps."""
    sizes, num_classes = [(128, 160), (160, 128)], NARROW["num_classes"]
    return [make_batch(seed, sizes, [3, 2], num_classes) for seed in (300, 400)]


def weights_digest(state: Mapping[str, Array]) -> str:
    """Of names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in state.items():
        _add(digest, name, value)
    return digest.hexdigest()


def inputs_digest(batches: Iterable[Batch]) -> str:
    """Of pixels, boxes, classes and masks."""
    digest = hashlib.sha256()
    for batch in batches:
        for image, objects in zip(batch.images, batch.objects):
            for name, value in {"image": image, **objects._asdict()}.items():
                _add(digest, name, value)
    return digest.hexdigest()


def _add(digest, name: str, value: Array) -> None:
    digest.update(f"{name} {value.shape} {value.dtype.str}".encode())
    digest.update(np.ascontiguousarray(value).tobytes())
