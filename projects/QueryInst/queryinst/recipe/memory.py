"""What a training takes of memory, estimated.

The figures are this project's measurements: docs/scaling.md for a GPU, docs/configuration.md for a
processor, of the published sizes; they shrink with the model's width.
"""

from .sizes import Sizes
from .structures import Machine, Start

_FULL_WIDTH, _FULL_STAGES = 256, 6
_MODEL = 2.8e9  # weights, gradients and moments
_REST = {True: 1.5e9, False: 0.8e9}  # of a step, by whether there is a GPU
_PIXEL = {True: 1000.0, False: 3200.0}
_QUERY = 2.6e6
_OBJECT = 4.5e6  # and stage: its mask head's activations
_USED = 0.85  # of the memory at hand


def fixed_bytes(start: Start, machine: Machine) -> float:
    """Model, optimizer and what a step needs besides its images."""
    return _MODEL * (start.width / _FULL_WIDTH) ** 2 + _REST[machine.has_gpu]


def image_bytes(
    start: Start, machine: Machine, sizes: Sizes, num_queries: int, num_masks: int
) -> float:
    """What an image takes in a step.

    Args:
        num_queries: with those of denoising.
        num_masks: objects and those of denoising, which each stage's mask head sees.
    """
    share = start.width / _FULL_WIDTH
    stages = start.num_stages / _FULL_STAGES
    pixels = sizes.pixels * _PIXEL[machine.has_gpu] * max(share, 0.5)
    queries = num_queries * _QUERY * share * stages
    masks = num_masks * _OBJECT * start.num_stages * share
    return pixels + queries + masks


def images_in_memory(memory: int | None, image: float, fixed: float) -> int | None:
    """How many images fit; None if nobody knows how much memory there is."""
    return None if memory is None else max(0, int((_USED * memory - fixed) / image))
