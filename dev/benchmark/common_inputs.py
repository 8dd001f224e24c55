"""Images, objects and weights that all measurements share; no Detectron2."""

import torch
from parity_cases import Batch, make_batch

NUM_CLASSES = 80
OBJECTS = (7, 4)  # of the images in turn; COCO has 7 on average
OUTPUT_SIZE = (427, 640)  # the picture that 800x1199 was resized from
SIZES = {"inference": (800, 1199), "training": (512, 672)}
BATCHES = {"inference": 1, "training": 2}
IMAGE_SEED = 300
MODELS = {100: "queryinst_R_50_FPN_1x", 300: "queryinst_R_50_FPN_3x_300q"}


def batch_of(run: dict) -> Batch:
    """The images and objects of a run."""
    task = run["task"]
    number = run["batch"] or BATCHES[task]
    counts = [OBJECTS[image % len(OBJECTS)] for image in range(number)]
    return make_batch(IMAGE_SEED, [SIZES[task]] * number, counts, NUM_CLASSES)


def load_weights(path: str) -> dict[str, torch.Tensor]:
    """In MMDetection's names; mapped from the disk, so that they are gone with the dictionary."""
    return torch.load(path, mmap=True, weights_only=True)
