"""What MMDetection makes of `edge_inputs`."""

import edge_inputs
import mmdet_peer  # noqa: F401  before anything of mmdet
import numpy as np
import torch
from mmdet.models.losses import DiceLoss, GIoULoss
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.assigners.match_cost import BBoxL1Cost, FocalLossCost, IoUCost
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.structures.mask import BitmapMasks
from mmdet.structures.mask.mask_target import mask_target_single
from mmdet_runs import nothing_cast_to_float32
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor


def edge_record() -> dict[str, Tensor]:
    """Results by function."""
    with nothing_cast_to_float32(torch.float64):
        record = {"decode": _decode(), "dice": _dice(), "giou": _giou()} | _costs()
    return record | {"mask_targets": _mask_targets()} | _pooling() | _pasting()


def _decode() -> Tensor:
    boxes, deltas = map(torch.from_numpy, edge_inputs.decode())
    stds = (0.5, 0.5, 1.0, 1.0)
    return delta2bbox(boxes, deltas, (0.0,) * 4, stds, max_shape=(100, 100), clip_border=False)


def _costs() -> dict[str, Tensor]:
    inputs = {name: torch.from_numpy(value) for name, value in edge_inputs.costs().items()}
    predictions = InstanceData(bboxes=inputs["boxes"], scores=inputs["logits"])
    truth = InstanceData(bboxes=inputs["gt_boxes"], labels=inputs["classes"])
    meta = dict(img_shape=edge_inputs.COST_IMAGE_SIZE)
    costs = {
        "focal": FocalLossCost(weight=2.0),
        "l1": BBoxL1Cost(box_format="xyxy", weight=5.0),
        "giou": IoUCost(iou_mode="giou", weight=2.0),
    }
    return {f"cost_{name}": cost(predictions, truth, meta) for name, cost in costs.items()}


def _mask_targets() -> Tensor:
    masks, boxes, index = edge_inputs.mask_targets()
    bitmaps = BitmapMasks(masks.astype(np.uint8), *edge_inputs.IMAGE_SIZE)
    size = ConfigDict(mask_size=28)
    targets = mask_target_single(torch.tensor(boxes), torch.from_numpy(index), bitmaps, size)
    return targets > 0.5


def _pooling() -> dict[str, Tensor]:
    features, rois = edge_inputs.pooling()
    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=2)
    strides = list(edge_inputs.STRIDES)
    extractor = SingleRoIExtractor(roi_layer=layer, out_channels=3, featmap_strides=strides)
    rois = torch.from_numpy(rois)
    levels = extractor.map_roi_levels(rois, len(strides))
    return {
        "levels": levels,
        "roi_features": extractor([torch.from_numpy(x) for x in features], rois),
    }


def _pasting() -> dict[str, Tensor]:
    masks, boxes = map(torch.from_numpy, edge_inputs.pasting())
    raised = []
    for box in torch.from_numpy(edge_inputs.outside()):
        try:
            _paste(masks[0], box)
            raised.append(False)
        except RuntimeError:
            raised.append(True)
    pasted = torch.stack([_paste(mask, box) for mask, box in zip(masks, boxes)])
    return {"pasted": pasted, "outside_raises": torch.tensor(raised)}


def _paste(mask: Tensor, box: Tensor) -> Tensor:
    image = torch.zeros(1, *edge_inputs.IMAGE_SIZE, dtype=torch.bool)
    part, where = fcn_mask_head._do_paste_mask(
        mask[None, None], box[None], *edge_inputs.IMAGE_SIZE, True
    )
    image[(slice(None), *where)] = part >= 0.5
    return image[0]


def _dice() -> Tensor:
    logits, masks = map(torch.from_numpy, edge_inputs.dice())
    loss = DiceLoss(activate=False, eps=1e-5)
    pairs = zip(logits.sigmoid().split(1), masks.double().split(1))
    return torch.stack([loss(scores, mask) for scores, mask in pairs])


def _giou() -> Tensor:
    inputs = edge_inputs.costs()
    boxes, gt_boxes = torch.from_numpy(inputs["boxes"][:9]), torch.from_numpy(inputs["gt_boxes"])
    loss = GIoULoss()
    return torch.stack([loss(*pair) for pair in zip(boxes.split(1), gt_boxes.split(1))])
