"""Detections against MMDetection's: before and after they go into the user's image."""

import goldens
import our_runs
import pytest
import torch
from comparison import drop_without_area
from parity_cases import NARROW

IMAGES = (0, 1)
DETECTIONS = ("topk", "scores", "boxes", "mask_scores")
OUTPUTS = ("output_topk", "output_boxes", "output_masks")
OUTPUT_BOXES = [f"image{image}/output_boxes" for image in IMAGES]


@pytest.fixture(scope="module")
def ours(built, weights, batches):
    our_runs.set_weights(built, weights, torch.float64)
    batch = batches["plain"]
    return our_runs.prediction_run(built, batch.images, batch.output_sizes)


@pytest.fixture(scope="module")
def theirs(batches):
    """With the output's boxes clipped, and without those of no area; that alone is on purpose."""
    record = dict(goldens.load("prediction"))
    for key in OUTPUT_BOXES:
        record[key] = record[key][:-1].view(-1, 4)
    record = drop_without_area(record, batches["plain"].output_sizes)
    return record | goldens.sampled({key: record[key] for key in OUTPUT_BOXES}, "prediction")


@pytest.mark.parametrize("quantity", DETECTIONS + OUTPUTS)
@pytest.mark.parametrize("image", IMAGES)
def test_inference_gives_mmdetections_detections(ours, theirs, image, quantity):
    key = f"image{image}/{quantity}"
    ours = goldens.sampled({key: ours[key]}, "prediction")
    goldens.check(ours, {key: theirs[key]})


def test_inference_is_mmdetections_on_the_way(ours, theirs):
    inner = {key: value for key, value in theirs.items() if not key.startswith("image")}
    assert {key.rpartition("/")[2] for key in inner} >= {"p2", "boxes", "class_logits"}
    ours = goldens.sampled(ours, "prediction")
    assert ours.keys() == theirs.keys()
    goldens.check({key: ours[key] for key in inner}, inner)


def test_output_masks_are_neither_empty_nor_full(ours):
    masks = torch.cat([ours[f"image{image}/output_masks"].flatten() for image in IMAGES])
    assert 0.02 < masks.double().mean() < 0.9
    assert ours["image0/scores"].min() < 0.5 < ours["image0/scores"].max()


def test_forward_core_gives_mmdetections_detections(model, theirs, batches):
    model.eval()
    images = batches["plain"].images
    inputs = [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images]
    sizes = torch.tensor([image.shape[:2] for image in images])
    with torch.no_grad():
        pixels = model.preprocess_image(inputs).tensor
        boxes, scores, classes, query_idx, masks = model.forward_core(pixels, sizes)
    for image in IMAGES:
        topk = query_idx[image] * NARROW["num_classes"] + classes[image]
        order = topk.argsort()
        values = {"topk": topk, "scores": scores[image], "boxes": boxes[image]}
        values["mask_scores"] = masks[image]
        record = {f"image{image}/{key}": value[order] for key, value in values.items()}
        goldens.check(goldens.sampled(record, "prediction"), {key: theirs[key] for key in record})
