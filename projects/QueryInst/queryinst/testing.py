"""Small configurations and random data, for tests of this project and of code that uses it."""

from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from .config import add_queryinst_config

_TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.META_ARCHITECTURE": "QueryInst",
    "MODEL.WEIGHTS": "",
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (2.0, 2.0, 1.0, 1.0),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
    "MODEL.QUERYINST.NUM_QUERIES": 6,
    "MODEL.QUERYINST.NUM_STAGES": 2,
    "MODEL.QUERYINST.EMBED_DIM": 16,
    "MODEL.QUERYINST.NUM_HEADS": 4,
    "MODEL.QUERYINST.FFN_DIM": 32,
    "MODEL.QUERYINST.DYNAMIC_DIM": 4,
    "INPUT.FORMAT": "RGB",
    "INPUT.MASK_FORMAT": "bitmask",
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
}


def tiny_cfg(**overrides) -> CfgNode:
    """A configuration whose modules have the full model's names and cost next to nothing.

    Args:
        overrides: keys with ``__`` for the dot, such as ``MODEL__MASK_ON=False``.
    """
    cfg = get_cfg()
    add_queryinst_config(cfg)
    for key, value in (_TINY | {k.replace("__", "."): v for k, v in overrides.items()}).items():
        cfg.merge_from_list([key, value])
    return cfg


def spread_queries(model: Any) -> None:
    """Let the queries of a new model differ, so that rounding does not decide between them."""
    for stage in model.cascade.stages:
        nn.init.normal_(stage.cls_logits.weight, std=1.0)
        nn.init.zeros_(stage.cls_logits.bias)
    boxes = model.initial_queries.boxes_cxcywh_norm.data
    boxes.copy_(0.2 + 0.6 * torch.rand(boxes.shape))


def random_instances(
    num: int, height: int, width: int, num_classes: int = 3, seed: int = 0
) -> Instances:
    """`num` ground-truth rectangles, at least 8 pixels on a side, as a DatasetMapper gives them."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([width - 8.0, height - 8.0])
    room = torch.tensor([float(width), float(height)]) - corner
    boxes = torch.cat(
        [corner, corner + 8 + torch.rand(num, 2, generator=generator) * (room - 8)], 1
    )
    boxes = boxes.floor()
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.randint(num_classes, (num,), generator=generator)
    x, y = torch.arange(width), torch.arange(height)
    x0, y0, x1, y1 = (side[:, None] for side in boxes.unbind(1))
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    instances.gt_masks = BitMasks(rows[:, :, None] & columns[:, None, :])
    return instances


def random_batch(
    nums: tuple[int, ...], height: int = 64, width: int = 96, num_classes: int = 3, seed: int = 0
) -> list[dict]:
    """One input dict per number of instances, with noise as the image."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
            "instances": random_instances(num, height, width, num_classes, seed + image),
            "height": height,
            "width": width,
            "file_name": f"random_{image}.png",
        }
        for image, num in enumerate(nums)
    ]
