"""Data set dicts to model inputs: Detectron2's mapper with exact masks and boxes."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from ..config import MAX_PIXELS
from .augmentation import build_augmentations
from .images import check_image_size, read_image
from .instance_checks import describe, parse_crowd
from .mask_bounds import to_rle


def build_mapper(
    cfg: CfgNode, is_train: bool, *, with_instances: bool | None = None
) -> DatasetMapper:
    """The mapper of the training loader (``is_train``) or of an evaluation loader.

    Args:
        with_instances: whether inputs have "instances"; None as `is_train`.

    Raises:
        ValueError: ``INPUT.MASK_FORMAT`` is not "bitmask" in training with masks, or the value of
            an augmentation's key is invalid.
    """
    with_instances = is_train if with_instances is None else with_instances
    if with_instances and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT != "bitmask":
        raise ValueError(
            f"INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT!r} must be 'bitmask', which supports "
            "polygons and RLE; set INPUT.MASK_FORMAT bitmask"
        )
    augmentations = build_augmentations(cfg, is_train)
    mapper = InstanceMapper(cfg, with_instances, augmentations=augmentations, recompute_boxes=False)
    mapper.max_pixels = cfg.INPUT.MAX_PIXELS
    return mapper


class InstanceMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper`` with the reference's treatment of masks and boxes.

    It differs in three points, in each of which Detectron2 is wrong by some pixels:

    - Masks are drawn at the file's resolution, then flipped, cropped and resized (nearest) as
      bitmaps; polygons and RLE of the same object give the same mask. Cutting polygons instead
      loses parts of those that cross themselves.
    - Boxes are transformed in floating point even if the JSON holds integers, which Detectron2
      rounds down after each resize.
    - :func:`queryinst.data.images.read_image` reads images, and supports 16 bits.

    Boxes are clipped to a crop, not computed from what the crop leaves of the mask. An instance is
    removed if its clipped box has no area or no pixel of its mask is left; the reference keeps the
    latter. Even without any instance ``gt_boxes``, ``gt_classes`` and, with masks on, ``gt_masks``
    exist.
    """

    max_pixels = MAX_PIXELS  # of an image; a larger one is an error

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one image.

        Args:
            dataset_dict: in Detectron2's standard format; it does not change.

        Returns:
            A dict with "image", uint8 (C, H, W) in ``INPUT.FORMAT``, and in training "instances"
            with boxes in XYXY pixels of that image, instead of "annotations".

        Raises:
            FileNotFoundError: the image does not exist.
            ValueError: the image cannot be read, its size differs from `dataset_dict`, or a mask
                is malformed.
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = read_image(dataset_dict["file_name"], self.image_format, self.max_pixels)
        check_image_size(dataset_dict, image)
        file_size = image.shape[:2]
        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        dataset_dict["image"] = torch.from_numpy(image.transpose(2, 0, 1).copy())
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            usable = [
                self._draw(annotation, describe(annotation, dataset_dict), *file_size)
                for annotation in annotations
                if not parse_crowd(annotation)
            ]
            dataset_dict["instances"] = self._transform(usable, transforms, image.shape[:2])
        return dataset_dict

    def _draw(
        self, annotation: dict[str, Any], label: str, height: int, width: int
    ) -> dict[str, Any]:
        """The annotation with a floating-point box and, with masks on, its mask as RLE."""
        drawn = {
            "bbox": [float(coordinate) for coordinate in annotation["bbox"]],
            "bbox_mode": BoxMode(annotation["bbox_mode"]),
            "category_id": annotation["category_id"],
        }
        if self.use_instance_mask:
            drawn["segmentation"] = to_rle(annotation["segmentation"], height, width, label)
        return drawn

    def _transform(
        self, annotations: list[dict[str, Any]], transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        transformed = [
            detection_utils.transform_instance_annotations(annotation, transforms, size)
            for annotation in annotations
        ]
        instances = Instances(size)
        boxes = np.array([annotation["bbox"] for annotation in transformed]).reshape(-1, 4)
        instances.gt_boxes = Boxes(boxes)
        classes = [int(annotation["category_id"]) for annotation in transformed]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        if self.use_instance_mask:
            masks = np.array([annotation["segmentation"] for annotation in transformed])
            instances.gt_masks = BitMasks(masks.reshape(-1, *size))
        return detection_utils.filter_empty_instances(instances)
