"""Predictor: from a checkpoint to a function of one image."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from ..checkpoint import QueryInstCheckpointer, read_meta
from ..checkpoint.inference_only import fit_to_weights
from ..config import config_of_checkpoint
from ..config_files import default_cfg, merge_keys, merge_opts
from ..config_limits import check_limits
from ..data.augmentation import build_augmentations
from ..devices import resolve_device
from .amp import check_inference_precision, inference_autocast
from .class_order import class_names_of
from .finite_scores import NotNumberWatch
from .test_time_augmentation import QueryInstWithTTA

logger = logging.getLogger(__name__)


class Predictor(DefaultPredictor):
    """Detectron2's DefaultPredictor with strict loading and the checkpoint's class names.

    Attributes:
        metadata: its `thing_classes` name the classes: as the checkpoint does, else DATASETS.TEST,
            else "class 0" and so on. The global catalog does not change.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: no key of the model may be missing in MODEL.WEIGHTS. If MODEL.DEVICE names a GPU
                and there is none, the CPU runs the model, with one warning.

        Raises:
            ValueError, OSError: the weights, or a value of `cfg`, are invalid. One line.
        """
        check_limits(cfg)
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):  # of its images, of three channels
            raise ValueError(f"{cfg.INPUT.FORMAT!r} must be one of RGB, BGR; set INPUT.FORMAT")
        self.cfg = fit_to_weights(cfg).clone()
        self.cfg.defrost()
        self.cfg.MODEL.DEVICE = resolve_device(cfg, training=False)
        check_inference_precision(self.cfg)
        self.model = build_model(self.cfg).eval()  # in eval mode no key may be missing
        QueryInstCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.metadata = _find_metadata(self.cfg, list(class_names_of(self.model)))
        self.aug = build_augmentations(self.cfg, is_train=False)[0]
        self.input_format = cfg.INPUT.FORMAT
        self._with_tta = QueryInstWithTTA(self.cfg, self.model) if cfg.TEST.AUG.ENABLED else None

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, opts: Sequence[str] = ()) -> "Predictor":
        """Build the predictor from nothing but a checkpoint of this project.

        Args:
            path: file or URL, with the configuration in its `meta`.
            opts: key, value, key, value, ... which win over that configuration.

        Raises:
            ValueError: the checkpoint has no configuration, or does not fit it.
            KeyError: a key in `opts` is unknown.
            OSError: the file cannot be read.
        """
        return cls(cfg_from_checkpoint(path, opts))

    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predict on one image.

        Args:
            original_image: (H, W, 3) uint8, BGR, whatever INPUT.FORMAT is.

        Returns:
            {"instances": Instances} with pred_boxes, scores, pred_classes, query_idx and, with
            masks on, pred_masks (D, H, W), in the image's own pixels; with TEST.AUG.ENABLED of
            all views together.

        Raises:
            ValueError: the image is not such an array, or not finite, or the model computes
                scores or boxes that are not numbers for it.
        """
        shape = getattr(original_image, "shape", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            kind = type(original_image).__name__ if shape is None else f"of shape {shape}"
            raise ValueError(f"the image is {kind}; it must be an (H, W, 3) array of BGR pixels")
        if original_image.dtype.kind == "f" and not np.isfinite(original_image).all():
            raise ValueError("the image has values that are not finite")
        height, width = shape[:2]
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        if self._with_tta is None:
            image = self.aug.get_transform(image).apply_image(image)
            image = image.astype(np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs = {"image": pixels, "height": height, "width": width}
        with torch.no_grad(), inference_autocast(self.cfg), NotNumberWatch(self.model) as watch:
            result = (self._with_tta or self.model)([inputs])[0]
        # What is not a number is dropped. So where nothing is missing, nothing waits for the count.
        if len(result["instances"]) < self.cfg.TEST.DETECTIONS_PER_IMAGE:
            watch.require_none()
        return result


def cfg_from_checkpoint(path: str | os.PathLike, opts: Sequence[str] = ()) -> CfgNode:
    """The configuration in a checkpoint's `meta`, with its path as MODEL.WEIGHTS.

    Raises:
        ValueError, KeyError, OSError: as `Predictor.from_checkpoint`.
    """
    path = os.fspath(path)
    meta = read_meta(path) or {}
    if not meta.get("config"):
        raise ValueError(
            f"MODEL.WEIGHTS {path} has no configuration: name its config file as well, or a"
            " checkpoint that this project wrote or converted"
        )
    cfg = cfg_from_text(meta["config"], f"MODEL.WEIGHTS {path}")
    merge_opts(cfg, opts)
    cfg.MODEL.WEIGHTS = path
    cfg.freeze()
    return cfg


def cfg_from_text(text: str, label: str) -> CfgNode:
    """The configuration in the `meta` of the checkpoint `label`; not frozen.

    Raises:
        ValueError: it is not a configuration, or has an unknown key of the model. One line.
    """
    cfg = default_cfg()
    label = f"the configuration in {label}"
    saved = config_of_checkpoint(text, label)
    if foreign := _drop_unknown(saved, cfg):
        if needed := [key for key in foreign if key.startswith("MODEL.")]:
            raise ValueError(
                f"{label} has the unknown key {needed[0]}; import the project that declares it "
                "and name its config file"
            )
        logger.info(
            "Left out unknown keys of the checkpoint's configuration: %s", ", ".join(foreign)
        )
    merge_keys(cfg, saved, label)
    # The file lacks nothing, and searching for a pattern of another's could take for ever.
    cfg.MODEL.QUERYINST.ALLOW_UNLOADED = ()
    return cfg


def _drop_unknown(saved: dict[str, Any], known: CfgNode, prefix: str = "") -> list[str]:
    """Remove keys that another version of Detectron2 declares, and return them."""
    unknown = []
    for key in list(saved):
        if key not in known:
            unknown.append(f"{prefix}{key}")
            del saved[key]
        elif isinstance(saved[key], dict) and isinstance(known[key], CfgNode):
            unknown += _drop_unknown(saved[key], known[key], f"{prefix}{key}.")
    return unknown


def _find_metadata(cfg: CfgNode, names: list[str]) -> Metadata:
    """Class names from the checkpoint, else from the registered data set of DATASETS.TEST."""
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for dataset_name in cfg.DATASETS.TEST[:1]:
        if dataset_name not in DatasetCatalog:
            continue
        metadata = MetadataCatalog.get(dataset_name)  # has colours too
        registered = list(metadata.get("thing_classes") or ())
        if len(registered) == num_classes and names in ([], registered):
            return metadata
    names = names or [f"class {number}" for number in range(num_classes)]
    return Metadata(name="checkpoint", thing_classes=names)
