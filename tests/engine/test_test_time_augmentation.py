import json
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from queryinst.engine import main
from queryinst.engine.merged_views import ViewDetections, mean_masks, merge_views
from queryinst.engine.predictor import Predictor
from queryinst.engine.test_time_augmentation import QueryInstWithTTA, min_sizes
from queryinst.structures import PreciseBoxes
from queryinst.testing import random_batch, spread_queries, tiny_cfg


class FindsBright(nn.Module):
    """Finds the pixels above 100, and what is above 200 in their box is the mask."""

    score_threshold = 0.0

    def __init__(self, mask_size=28):
        super().__init__()
        self.mask_size = mask_size
        self.sizes = []
        self.eval()

    def inference(self, batched_inputs, do_postprocess=True):
        assert not do_postprocess
        self.sizes += [tuple(x["image"].shape[1:]) for x in batched_inputs]
        return [self.find(x["image"][0].float()) for x in batched_inputs]

    def find(self, image):
        y, x = torch.nonzero(image > 100, as_tuple=True)
        x0, y0, x1, y1 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
        size = (self.mask_size, self.mask_size)
        mask = F.interpolate((image[None, None, y0:y1, x0:x1] > 200).float(), size, mode="nearest")
        boxes = PreciseBoxes(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32))
        return Instances(
            tuple(image.shape),
            pred_boxes=boxes,
            scores=torch.tensor([0.8]),
            pred_classes=torch.tensor([1]),
            query_idx=torch.tensor([5]),
            pred_masks=mask,
        )


def tta_cfg(*sizes, **overrides):
    known = {"TEST__AUG__MIN_SIZES": sizes, "TEST__AUG__FLIP": True}
    return tiny_cfg(**(known | overrides))


def a_bright_l():
    """(3, 64, 96): in a box of 28x28 the left half and the lower quarter are bright."""
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 20:48, 8:36] = 150
    image[:, 20:48, 8:22] = 255
    image[:, 41:48, 8:36] = 255
    return image


def views(boxes, scores, classes, view_idx, masks=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.ones(len(boxes), 4, 4) if masks is None else masks
    query_idx = torch.arange(len(boxes))
    ints = [torch.tensor(x, dtype=torch.int64) for x in (classes, view_idx)]
    return ViewDetections(boxes, torch.tensor(scores), ints[0], query_idx, ints[1], masks)


def test_a_mirrored_and_an_enlarged_view_of_an_object_are_one():
    model = FindsBright()
    image = a_bright_l()
    (output,) = QueryInstWithTTA(tta_cfg(64, 128), model)([{"image": image}])
    instances = output["instances"]
    assert model.sizes == [(64, 96)] * 2 + [(128, 192)] * 2
    assert instances.scores.tolist() == pytest.approx([0.8])
    assert (instances.pred_classes.tolist(), instances.query_idx.tolist()) == ([1], [5])
    # resizing blurs an edge by less than a pixel
    expected = torch.tensor([[8.0, 20.0, 36.0, 48.0]])
    assert (instances.pred_boxes.tensor - expected).abs().max() < 1
    wrong = (instances.pred_masks[0] != (image[0] > 200)).sum()
    assert wrong < 0.03 * instances.pred_masks.sum()


def test_results_are_in_the_users_image():
    inputs = {"image": a_bright_l(), "height": 128, "width": 288}
    (output,) = QueryInstWithTTA(tta_cfg(64), FindsBright())([inputs])
    instances = output["instances"]
    assert instances.image_size == (128, 288)
    assert instances.pred_boxes.tensor.tolist() == [[24.0, 40.0, 108.0, 96.0]]
    assert instances.pred_masks.shape == (1, 128, 288)


def test_a_size_that_the_longest_side_caps_is_seen_once():
    model = FindsBright()
    cfg = tta_cfg(64, 128, 256, TEST__AUG__MAX_SIZE=96, TEST__AUG__FLIP=False)
    QueryInstWithTTA(cfg, model)([{"image": a_bright_l()}])
    assert model.sizes == [(64, 96)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    result = build_model(tiny_cfg()).eval()
    spread_queries(result)
    return result


@pytest.mark.parametrize("masks", [True, False])
def test_one_view_is_the_plain_prediction(masks):
    torch.manual_seed(0)
    cfg = tta_cfg(0, TEST__AUG__FLIP=False, MODEL__MASK_ON=masks)
    model = build_model(cfg).eval()
    spread_queries(model)
    inputs = [{**x, "height": 70, "width": 50} for x in random_batch((0, 0), 64, 96)]
    with torch.no_grad():
        plain, augmented = model(inputs), QueryInstWithTTA(cfg, model)(inputs)
    for expected, got in zip(plain, augmented):
        expected, got = expected["instances"], got["instances"]
        assert len(expected) > 0 and expected.get_fields().keys() == got.get_fields().keys()
        torch.testing.assert_close(got.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(got.scores, expected.scores)
        assert torch.equal(got.query_idx, expected.query_idx)
        assert torch.equal(got.pred_classes, expected.pred_classes)
        if masks:  # which rounding may decide about
            assert (got.pred_masks != expected.pred_masks).float().mean() < 1e-4


def test_the_threshold_holds_for_the_mean_and_not_for_the_views(model):
    every = QueryInstWithTTA(tta_cfg(48, 64), model)
    inputs = random_batch((0,), 64, 96)
    with torch.no_grad():
        scores = every(inputs)[0]["instances"].scores
        threshold = float(scores[len(scores) // 2])
        some = QueryInstWithTTA(
            tta_cfg(48, 64, MODEL__ROI_HEADS__SCORE_THRESH_TEST=threshold), model
        )
        kept = some(inputs)[0]["instances"].scores
    assert model.score_threshold == 0
    # A view keeps what is above 0.05, all of which counts.
    assert 0 < len(kept) <= len(scores) // 2 and kept.min() > threshold
    few = QueryInstWithTTA(tta_cfg(48, 64, TEST__DETECTIONS_PER_IMAGE=3), model)
    with torch.no_grad():
        torch.testing.assert_close(few(inputs)[0]["instances"].scores, scores[:3])


def test_nothing_found_is_an_ordinary_result(model):
    cfg = tta_cfg(64, MODEL__ROI_HEADS__SCORE_THRESH_TEST=1.0)
    with torch.no_grad():
        instances = QueryInstWithTTA(cfg, model)(random_batch((0,)))[0]["instances"]
    assert len(instances) == 0 and instances.pred_masks.shape == (0, 64, 96)
    assert QueryInstWithTTA(cfg, model)([]) == []


def test_merge_views_averages_boxes_by_score_and_scores_over_all_views():
    found = views(
        [[0, 0, 10, 10], [2, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.3, 0.6], [0, 0, 0], [0, 1, 1]
    )
    merged = merge_views(found, num_views=3)
    assert merged.scores.tolist() == pytest.approx([0.4, 0.2])
    torch.testing.assert_close(merged.boxes[0], torch.tensor([0.5, 0.0, 10.0, 10.0]))
    assert [members.tolist() for members in merged.members] == [[0, 1], [2]]


@pytest.mark.parametrize(
    "classes, view_idx, num",
    [
        ([0, 0], [0, 1], 1),
        ([0, 1], [0, 1], 2),  # of two classes
        ([0, 0], [1, 1], 2),  # of one view, which tells them apart
    ],
)
def test_merge_views_keeps_apart_what_is_not_the_same(classes, view_idx, num):
    found = views([[0, 0, 10, 10], [1, 0, 10, 10]], [0.9, 0.8], classes, view_idx)
    assert len(merge_views(found, 2).scores) == num


def test_merge_views_compares_masks_where_boxes_are_alike():
    upper, lower = torch.zeros(2, 4, 4)
    upper[:2], lower[2:] = 1, 1
    boxes, scores = [[0, 0, 8, 8]] * 2, [0.9, 0.8]
    assert len(merge_views(views(boxes, scores, [0, 0], [0, 1]), 2).scores) == 1
    found = views(boxes, scores, [0, 0], [0, 1], torch.stack([upper, lower]))
    assert len(merge_views(found, 2).scores) == 2
    assert len(merge_views(found._replace(masks=None), 2).scores) == 1  # a box detector's


def test_merge_views_takes_the_most_similar_of_each_view():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10]]
    merged = merge_views(views(boxes, [0.9, 0.8, 0.7], [0] * 3, [0, 1, 1]), 2)
    assert [members.tolist() for members in merged.members] == [[0, 2], [1]]


def averaged_in_the_image(found, members, height, width):
    """The weighted mean of the members' scores at each pixel's centre, by sampling a grid."""
    total = torch.zeros(height, width, dtype=torch.float64)
    y, x = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (height, width))
    for row in members.tolist():
        x0, y0, x1, y1 = found.boxes[row].double()
        grid = torch.stack(
            torch.broadcast_tensors(
                ((x - x0) / (x1 - x0) * 2 - 1)[None], ((y - y0) / (y1 - y0) * 2 - 1)[:, None]
            ),
            dim=-1,
        )
        mask = found.masks[row][None, None].double()
        total += found.scores[row] * F.grid_sample(mask, grid[None], align_corners=False)[0, 0]
    return total / found.scores[members].sum()


def test_mean_masks_are_those_of_every_pixel():
    generator = torch.Generator().manual_seed(0)
    boxes = [[-5.5, 3.2, 20.1, 30.7], [-3.0, 2.0, 23.4, 33.0], [-4.0, 5.0, 20.0, 28.0]]
    masks = torch.rand(3, 28, 28, generator=generator) * 0.6 + 0.3
    found = views(boxes, [0.9, 0.8, 0.3], [0] * 3, [0, 1, 2], masks)
    merged = merge_views(found, 3)._replace(members=[torch.arange(3)])
    (crop,) = mean_masks(found, merged, (32, 22))
    whole = torch.zeros(32, 22, dtype=torch.bool)
    whole[crop.top : crop.top + crop.mask.shape[0], crop.left : crop.left + crop.mask.shape[1]] = (
        crop.mask
    )
    expected = averaged_in_the_image(found, merged.members[0], 32, 22)
    decided = (expected - 0.5).abs() > 1e-5
    assert torch.equal(whole[decided], (expected >= 0.5)[decided]) and 0 < whole.sum() < 32 * 22
    assert (crop.left, crop.top, *crop.mask.shape) == (0, 2, 30, 22)


def test_min_sizes_scale_detectron2s_default_to_the_models_size(caplog):
    default = tiny_cfg().TEST.AUG.MIN_SIZES
    assert (
        min_sizes(tiny_cfg(INPUT__MIN_SIZE_TEST=800))
        == tuple(default)
        == min_sizes(tiny_cfg(INPUT__MIN_SIZE_TEST=0))
    )
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        scaled = min_sizes(tiny_cfg(INPUT__MIN_SIZE_TEST=128))
    assert scaled == (64, 80, 96, 112, 128, 144, 160, 176, 192)
    assert "INPUT.MIN_SIZE_TEST 128" in caplog.text
    assert min_sizes(tta_cfg(100, INPUT__MIN_SIZE_TEST=2000)) == (100,)


def test_predictor_honours_the_keys(tmp_path, model):
    path = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, path)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    predict = {
        name: Predictor(tta_cfg(*sizes, MODEL__WEIGHTS=path, **keys))(image)["instances"]
        for name, sizes, keys in [
            ("plain", (64,), {}),
            ("one view", (64,), {"TEST__AUG__ENABLED": True, "TEST__AUG__FLIP": False}),
            ("more", (48, 64), {"TEST__AUG__ENABLED": True}),
        ]
    }
    torch.testing.assert_close(predict["one view"].scores, predict["plain"].scores)
    different = predict["one view"].pred_masks != predict["plain"].pred_masks
    assert different.float().mean() < 1e-4
    assert predict["more"].image_size == (50, 70)
    assert predict["more"].scores.max() < predict["plain"].scores.max()


AUG = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(48, 64)", "DATASETS.TEST", "('tiny_val',)")


@pytest.mark.parametrize("eval_only", [True, False])
def test_a_run_evaluates_with_it_as_well(make_args, tmp_path, eval_only):
    output = tmp_path / "output"
    if eval_only:
        main(make_args())
        weights = ("MODEL.WEIGHTS", output / "model_final.pth")
        results = main(make_args(*AUG, *weights, eval_only=True))
    else:
        results = main(make_args(*AUG))
    tasks = ["bbox", "bbox_TTA", "segm", "segm_TTA"]
    assert sorted(results["tiny_val"]) == tasks
    assert sorted(json.loads((output / "results.json").read_text())["tiny_val"]) == tasks
    name = "inference/tiny_val/coco_instances_results.json"
    plain, augmented = ((folder / name).read_text() for folder in (output, output / "TTA"))
    assert json.loads(plain) != json.loads(augmented)
    if not eval_only:
        last = json.loads((output / "metrics.json").read_text().splitlines()[-1])
        assert {"segm/AP", "segm_TTA/AP"} <= last.keys()


def test_predictor_refuses_scores_that_are_not_numbers(tmp_path, model):
    path = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, path)
    predictor = Predictor(tta_cfg(64, MODEL__WEIGHTS=path, TEST__AUG__ENABLED=True))
    torch.nn.init.constant_(predictor.model.cascade.stages[-1].cls_logits.bias, torch.nan)
    with pytest.raises(ValueError, match="not numbers"):
        predictor(np.zeros((64, 64, 3), np.uint8))
