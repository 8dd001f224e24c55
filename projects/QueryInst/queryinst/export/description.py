"""The description that an exported file carries, from a configuration and a checkpoint's `meta`."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from queryinst_runtime.description import Description

from .._version import __version__
from ..checkpoint.files import fetch, sha256_of
from ..yaml_files import is_remote


def describe(
    cfg: CfgNode,
    meta: Mapping[str, Any] | None,
    *,
    class_names: tuple[str, ...],
    size_divisibility: int,
    size: tuple[int, int] | None,
    precision: str,
) -> Description:
    """What the file of this model will say; its `tolerance` comes from the check.

    Args:
        cfg: of the model, with the checkpoint as MODEL.WEIGHTS.
        meta: of the checkpoint, if it has one.
    """
    meta = meta or {}
    weights = cfg.MODEL.WEIGHTS
    return Description(
        thing_classes=class_names,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        dataset_id_map=dict(meta.get("dataset_id_map") or {}),
        input_format=cfg.INPUT.FORMAT,
        pixel_mean=tuple(map(float, cfg.MODEL.PIXEL_MEAN)),
        pixel_std=tuple(map(float, cfg.MODEL.PIXEL_STD)),
        min_size_test=cfg.INPUT.MIN_SIZE_TEST,
        max_size_test=cfg.INPUT.MAX_SIZE_TEST,
        resize_with=cfg.INPUT.RESIZE_WITH,
        size_divisibility=size_divisibility,
        size=size,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        score_threshold=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        has_masks=cfg.MODEL.MASK_ON,
        precision=precision,
        source=weights if is_remote(weights) else os.path.basename(weights),
        digest=sha256_of(fetch(weights, f"MODEL.WEIGHTS {weights}")),
        licence=meta.get("licence", ""),
        attribution=meta.get("attribution", ""),
        training_data=meta.get("training_data", ""),
        queryinst_version=__version__,
    )
