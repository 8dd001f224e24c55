"""Single functions where rounding, clamps and empty shapes matter, against MMDetection's."""

import edge_inputs
import goldens
import pytest
import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import BitMasks, Instances

from queryinst.modeling import losses
from queryinst.modeling.cascade import TwoSidedBox2BoxTransform
from queryinst.modeling.pooler import RoIFeaturePooler
from queryinst.modeling.postprocessing import paste_masks, postprocess
from queryinst.modeling.targets import crop_gt_masks
from queryinst.structures import BatchTargets, MatchedIndices, PreciseBoxes

NUM_AT_SWITCHES = len(edge_inputs.SWITCHES) * len(edge_inputs.OFFSETS)
# MMDetection adds 1e-6 to sqrt(area) / 56 before the logarithm, Detectron2 1e-8 to
# sqrt(area) / 224; so much below a switch a box has the upper level already.
THEIR_REACH, OUR_REACH = 1e-6 * 56, 1e-8 * 224


@pytest.fixture(scope="module")
def theirs():
    return goldens.load("edges")


def check(theirs, **ours):
    ours = goldens.sampled(ours, "edges")
    goldens.check(ours, {key: theirs[key] for key in ours})


def test_apply_deltas_with_the_clamp_on_both_sides(theirs):
    boxes, deltas = map(torch.from_numpy, edge_inputs.decode())
    decoded = TwoSidedBox2BoxTransform(weights=(2.0, 2.0, 1.0, 1.0)).apply_deltas(deltas, boxes)
    check(theirs, decode=decoded)
    limit = 4.135
    assert (deltas[:, 2:] < -limit).any() and (deltas[:, 2:] > limit).any()
    assert (boxes[:, 2:] < boxes[:, :2]).any()


def test_focal_l1_and_giou_cost(theirs):
    inputs = {name: torch.from_numpy(value) for name, value in edge_inputs.costs().items()}
    height, width = edge_inputs.COST_IMAGE_SIZE
    whwh = torch.tensor([[width, height, width, height]], dtype=torch.float64)
    focal = losses.focal_cost(inputs["logits"], inputs["classes"], alpha=0.25, gamma=2.0)
    l1 = losses.l1_cost(inputs["boxes"], inputs["gt_boxes"], whwh)
    giou = losses.giou_cost(inputs["boxes"], inputs["gt_boxes"])
    assert focal.isfinite().all() and giou.isfinite().all()
    check(theirs, cost_focal=2 * focal, cost_l1=5 * l1, cost_giou=2 * giou)


def test_crop_gt_masks_of_boxes_inside_across_and_outside(theirs):
    masks, boxes, gt_idx = map(torch.from_numpy, edge_inputs.mask_targets())
    height, width = edge_inputs.IMAGE_SIZE
    targets = BatchTargets(
        boxes=torch.zeros(3, 4, dtype=boxes.dtype),
        classes=torch.zeros(3, dtype=torch.int64),
        num_per_image=[3],
        whwh=boxes.new_tensor([[width, height, width, height]]),
        masks=[BitMasks(masks)],
    )
    # As three stages of three matches each.
    matches = [MatchedIndices(torch.arange(3), part) for part in gt_idx.split(3)]
    cropped = crop_gt_masks(
        targets, boxes.view(3, 3, 4), matches, len(boxes), edge_inputs.IMAGE_SIZE, 28
    )
    check(theirs, mask_targets=cropped.flatten(0, 1))
    num_set = theirs["mask_targets"].flatten(1).sum(1)
    assert num_set[:2].min() > 0 and num_set[2] == num_set[6] == 0


def pool():
    """Levels from 0 and features of all RoIs."""
    features, rois = edge_inputs.pooling()
    rois = torch.from_numpy(rois)
    scales = tuple(1 / stride for stride in edge_inputs.STRIDES)
    pooler = RoIFeaturePooler(
        output_size=7, scales=scales, sampling_ratio=2, pooler_type="ROIAlignV2"
    )
    levels = assign_boxes_to_levels([PreciseBoxes(rois[:, 1:])], 2, 5, 224, 4)
    return levels, pooler([torch.from_numpy(x) for x in features], rois)


def test_assign_boxes_to_levels_differs_only_where_the_epsilons_do(theirs):
    levels = pool()[0][:NUM_AT_SWITCHES].view(len(edge_inputs.SWITCHES), -1)
    their_levels = theirs["levels"][:NUM_AT_SWITCHES].view_as(levels)
    offsets = torch.tensor(edge_inputs.OFFSETS, dtype=torch.float64)
    num_different = 0
    for level, side in enumerate(edge_inputs.SWITCHES, start=1):
        below = -offsets * side  # pixels
        assert their_levels[level - 1].tolist() == (level - 1 + (below <= THEIR_REACH)).tolist()
        assert levels[level - 1].tolist() == (level - 1 + (below <= OUR_REACH)).tolist()
        num_different += int(((below <= THEIR_REACH) & (below > OUR_REACH)).sum())
    assert num_different == (levels != their_levels).sum() > 0


def test_roi_feature_pooler_at_equal_levels(theirs):
    levels, features = pool()
    same = levels == theirs["levels"]
    same[NUM_AT_SWITCHES:] = True  # whatever the level of a box without area is called
    their_features = theirs["roi_features"][:-1].view_as(features)
    torch.testing.assert_close(features[same], their_features[same], rtol=0, atol=1e-12)
    differ = (features - their_features).abs().amax((1, 2, 3)) > 1e-3
    assert differ.equal(~same)


def test_roi_feature_pooler_gives_zeros_for_a_box_of_negative_area(theirs):
    features = pool()[1][NUM_AT_SWITCHES]
    assert features.abs().max() == 0
    start = NUM_AT_SWITCHES * features.numel()
    assert theirs["roi_features"][start : start + features.numel()].abs().max() == 0


def test_paste_masks_of_boxes_across_the_border(theirs):
    masks, boxes = map(torch.from_numpy, edge_inputs.pasting())
    check(theirs, pasted=paste_masks(masks, boxes, edge_inputs.IMAGE_SIZE))
    assert theirs["pasted"].flatten(1).any(1).sum() == 5  # one is thinner than half a pixel


def test_postprocess_drops_boxes_outside_of_the_image_where_mmdetection_raises(theirs):
    boxes = torch.from_numpy(edge_inputs.outside())
    instances = Instances(edge_inputs.IMAGE_SIZE, pred_masks=torch.ones(len(boxes), 1, 28, 28))
    instances.pred_boxes = PreciseBoxes(boxes)
    assert len(postprocess(instances, *edge_inputs.IMAGE_SIZE)) == 0
    assert theirs["outside_raises"].any()


def test_dice_loss_of_empty_and_certain_masks(theirs):
    logits, masks = map(torch.from_numpy, edge_inputs.dice())
    check(theirs, dice=losses.dice_loss(logits, masks))


def test_giou_loss_of_boxes_without_area(theirs):
    inputs = edge_inputs.costs()
    boxes, gt_boxes = torch.from_numpy(inputs["boxes"][:9]), torch.from_numpy(inputs["gt_boxes"])
    check(theirs, giou=losses.giou_loss(boxes, gt_boxes))
