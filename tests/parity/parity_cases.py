"""Which models, images and objects are compared; both sides make the same ones."""

from typing import NamedTuple

from parity_inputs import Array, Objects, random_image, random_objects

# The narrow model: every module of the real one, thin.
NARROW = dict(
    stages=3, queries=12, embed_dim=16, num_heads=4, ffn_dim=32, dynamic_dim=8, num_classes=5,
    base_channels=4,
)  # fmt: skip

FULL_SEED = 8  # of the full-size models' weights


class Batch(NamedTuple):
    """Images of different sizes, what is on them, and the sizes (height, width) of the output."""

    images: list[Array]
    objects: list[Objects]
    output_sizes: list[tuple[int, int]]


def make_batch(
    seed: int, sizes: list[tuple[int, int]], counts: list[int], num_classes: int
) -> Batch:
    """Image i of `sizes` (height, width) with `counts` objects."""
    images = [random_image(seed + i, *size) for i, size in enumerate(sizes)]
    objects = [
        random_objects(seed + 50 + i, *size, count, num_classes)
        for i, (size, count) in enumerate(zip(sizes, counts))
    ]
    return Batch(images, objects, [(int(h * 0.7), int(w * 0.8)) for h, w in sizes])


def narrow_batches() -> dict[str, Batch]:
    """plain; one image without objects; none at all; more objects than queries."""
    sizes, queries = [(300, 420), (380, 290)], NARROW["queries"]
    counts = {"plain": [4, 3], "one_empty": [0, 3], "none": [0, 0], "crowded": [4, queries + 5]}
    return {
        name: make_batch(100, sizes, count, NARROW["num_classes"]) for name, count in counts.items()
    }


def full_batch(num_classes: int) -> Batch:
    """For the full-size models."""
    return make_batch(300, [(384, 512), (448, 352)], [7, 4], num_classes)


def steps_batches(num_classes: int) -> list[Batch]:
    """Ten batches of two, of 320-pixel images, for ten optimizer steps."""
    sizes = [(320, 320), (320, 288)]
    return [make_batch(400 + 10 * step, sizes, [5, 3], num_classes) for step in range(10)]
