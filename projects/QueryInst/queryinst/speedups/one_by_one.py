"""The images of a batch predicted one after the other on the CPU.

Together they take as long, and memory for all of them.
"""

from collections.abc import Callable

from detectron2.structures import ImageList

from ..modeling import QueryInst


def apply_to_model(model: QueryInst) -> None:
    """Let `model` predict the images of a batch one after the other, padded as the batch is."""
    model.split_batch = OneByOne(model.split_batch)


class OneByOne:
    """Replaces `split_batch` on the CPU."""

    def __init__(self, otherwise: Callable[[ImageList], list[ImageList]]):
        self.otherwise = otherwise

    def __call__(self, images: ImageList) -> list[ImageList]:
        if images.tensor.device.type != "cpu":
            return self.otherwise(images)
        parts = zip(images.tensor.split(1), images.image_sizes)
        return [ImageList(pixels, [size]) for pixels, size in parts]
