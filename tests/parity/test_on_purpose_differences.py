"""Where this project differs from MMDetection on purpose: by how much, and that nothing else does.

The fourth, the resize of the input, is in tests/data/test_resize.py.
"""

import goldens
import our_runs
import pytest
import torch
from comparison import clip_boxes, drop_without_area
from detectron2.structures import Instances
from parity_cases import NARROW

from queryinst.modeling.postprocessing import postprocess
from queryinst.structures import PreciseBoxes

EPS = torch.finfo(torch.float32).eps  # what MMDetection adds to every count it divides by
FEW = 5
NUM_CLIPPED, LARGEST_CLIP = 10, 229.587  # boxes of the 24, pixels
NUM_DROPPED = 19  # of the 24 in a quarter of each image; none in the whole


@pytest.fixture(scope="module")
def without_objects(training_records):
    """Ours and theirs of a batch in which there is no instance at all."""
    ours = goldens.sampled(training_records("none"), "training_none")
    return ours, goldens.load("training_none")


def scaled_alone(key):
    return key.startswith(("grad/", "loss/loss_cls"))


def test_set_criterion_without_objects_where_mmdetection_divides_by_epsilon_alone(without_objects):
    ours, theirs = without_objects
    factor = (1 + EPS) / EPS
    assert factor == pytest.approx(8388609)
    for stage in range(NARROW["stages"]):
        key = f"loss/loss_cls_stage{stage}"
        assert ours[key][0] < 100 < 1e7 < theirs[key][0]
        assert theirs[key][0] / ours[key][0] == pytest.approx(factor, rel=1e-9)


def test_set_criterion_without_objects_has_mmdetections_gradients_but_for_that_factor(
    without_objects,
):
    ours, theirs = without_objects
    factor = EPS / (1 + EPS)
    keys = [key for key in theirs if scaled_alone(key)]
    assert sum(float(theirs[key][-1]) > 0 for key in keys) > 200
    goldens.check({k: ours[k] for k in keys}, {k: theirs[k] * factor for k in keys})


def test_set_criterion_without_objects_is_mmdetections_in_all_else(without_objects):
    ours, theirs = without_objects
    keys = [key for key in theirs if not scaled_alone(key)]
    assert {"loss/loss_mask_stage0", "loss/loss_box_giou_stage1", "stage0/boxes"} <= set(keys)
    assert ours.keys() == theirs.keys()
    goldens.check({k: ours[k] for k in keys}, {k: theirs[k] for k in keys})


@pytest.fixture(scope="module")
def predictions(built, weights, batches):
    """Ours, and theirs as a function from a key of an image to boxes."""
    our_runs.set_weights(built, weights, torch.float64)
    batch = batches["plain"]
    ours = our_runs.prediction_run(built, batch.images, batch.output_sizes)
    golden = goldens.load("prediction")
    return ours, lambda key: golden[key][:-1].view(-1, 4)


def test_postprocess_clips_mmdetections_boxes_to_the_image(predictions, batches):
    ours, their_boxes = predictions
    num_changed, largest = 0, 0.0
    for image, size in enumerate(batches["plain"].output_sizes):
        key = f"image{image}/output_boxes"
        theirs = their_boxes(key)
        torch.testing.assert_close(ours[key], clip_boxes(theirs, size), rtol=1e-9, atol=1e-9)
        change = (ours[key] - theirs).abs().amax(1)
        num_changed += int((change > 1e-6).sum())
        largest = max(largest, float(change.max()))
    num_boxes = 2 * NARROW["queries"]
    assert num_changed == NUM_CLIPPED < num_boxes
    assert largest == pytest.approx(LARGEST_CLIP, abs=0.01)


def test_postprocess_pastes_with_boxes_that_are_not_clipped(predictions):
    ours, their_boxes = predictions
    golden = goldens.load("prediction")
    for image in (0, 1):
        assert ours[f"image{image}/output_masks"].equal(golden[f"image{image}/output_masks"])
        resized = f"image{image}/boxes"
        torch.testing.assert_close(ours[resized], their_boxes(resized), rtol=1e-9, atol=1e-9)


def test_postprocess_drops_detections_without_area_that_mmdetection_keeps(predictions, batches):
    """In the upper left quarter of each image, as if there was no more of it."""
    ours, their_boxes = predictions
    golden = goldens.load("prediction")
    num_dropped = 0
    for image, (height, width) in enumerate(batches["plain"].output_sizes):
        size, key = (height // 4, width // 4), f"image{image}"
        assert ours[f"{key}/output_topk"].equal(golden[f"{key}/topk"]), "no whole image drops any"
        masks = golden[f"{key}/output_masks"][:, : size[0], : size[1]]
        kept = drop_without_area(
            {
                "image0/topk": golden[f"{key}/topk"],
                "image0/output_boxes": their_boxes(f"{key}/output_boxes"),
                "image0/output_masks": masks,
            },
            [size],
        )
        given = Instances(size, topk=ours[f"{key}/topk"])
        given.pred_boxes = PreciseBoxes(their_boxes(f"{key}/output_boxes"))
        given.pred_masks = ours[f"{key}/mask_scores"][:, None]
        output = postprocess(given, *size)
        assert output.topk.equal(kept["image0/output_topk"])
        assert output.pred_boxes.tensor.equal(kept["image0/output_boxes"])
        assert output.pred_masks.equal(kept["image0/output_masks"])
        is_dropped = ~torch.isin(golden[f"{key}/topk"], output.topk)
        assert not masks[is_dropped].any(), "MMDetection keeps them with an empty mask"
        num_dropped += int(is_dropped.sum())
    assert num_dropped == NUM_DROPPED > 0


def test_max_detections_keeps_mmdetections_best(model, batches):
    """MMDetection keeps as many detections as there are queries, COCO's evaluation looks at 100."""
    golden = goldens.load("prediction")
    model.max_detections = FEW
    model.eval()
    batch = batches["plain"]
    images = [torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in batch.images]
    with torch.no_grad():
        outputs = model(
            [{"image": x, "height": h, "width": w} for x, (h, w) in zip(images, batch.output_sizes)]
        )
    for image, output in enumerate(outputs):
        actual = output["instances"]
        best = golden[f"image{image}/scores"][:-1].argsort(descending=True)[:FEW]
        topk = actual.query_idx * NARROW["num_classes"] + actual.pred_classes
        assert topk.tolist() == golden[f"image{image}/topk"][best].tolist()
        assert actual.scores.tolist() == pytest.approx(
            golden[f"image{image}/scores"][best].tolist(), rel=1e-9
        )
        boxes = golden[f"image{image}/output_boxes"][:-1].view(-1, 4)[best]
        boxes = clip_boxes(boxes, batch.output_sizes[image])
        torch.testing.assert_close(actual.pred_boxes.tensor, boxes, rtol=1e-9, atol=1e-9)
        assert actual.pred_masks.equal(golden[f"image{image}/output_masks"][best])


def test_max_detections_is_a_key():
    cfg = our_runs.narrow_cfg(**NARROW)
    cfg.TEST.DETECTIONS_PER_IMAGE = FEW
    assert our_runs.build_model(cfg).max_detections == FEW
