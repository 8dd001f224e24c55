"""Random flips, sizes and crops, as lists of Detectron2's augmentations."""

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ..config_limits import check_limits
from .resize import OpenCVResizeShortestEdge, ResizeShortestEdge, check_opencv

_RESIZES: dict[str, type[T.ResizeShortestEdge]] = {
    "PIL": ResizeShortestEdge,
    "OPENCV": OpenCVResizeShortestEdge,
}


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of ``INPUT``, in their order.

    Training: flip, then resize. With ``INPUT.CROP.TYPE`` "absolute_range", DETR's augmentation:
    after the flip, one image in two is resized to a short side of ``INPUT.CROP.RESIZE_BEFORE``
    (long side <= ``INPUT.MAX_SIZE_TRAIN``) and cropped before that resize. Every other type of crop
    comes first, for every image, as in Detectron2. Evaluation: resize; a size of 0 keeps the
    image's own. ``INPUT.RESIZE_WITH`` names the library for all resizing: "PIL", as Detectron2, or
    "OPENCV", as MMDetection.

    Raises:
        ValueError: the value of an ``INPUT`` key is invalid.
        ImportError: ``INPUT.RESIZE_WITH`` is "OPENCV", and OpenCV is not installed.
    """
    check_limits(cfg, "INPUT")
    if not is_train:
        resize_class = _resize_class(cfg)
        return [resize_class(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    flips, resize = _build_flips(cfg), _build_resize(cfg)
    if not cfg.INPUT.CROP.ENABLED:
        return [*flips, resize]
    crop = _build_crop(cfg)
    if cfg.INPUT.CROP.TYPE != "absolute_range":
        return [crop, *flips, resize]
    short_sides = tuple(cfg.INPUT.CROP.RESIZE_BEFORE)
    resize_before = _resize_class(cfg)(short_sides, cfg.INPUT.MAX_SIZE_TRAIN, "choice")
    return [*flips, T.RandomApply(T.AugmentationList([resize_before, crop]), prob=0.5), resize]


def _build_flips(cfg: CfgNode) -> list[T.Augmentation]:
    flip = cfg.INPUT.RANDOM_FLIP
    if flip == "none":
        return []
    return [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")]


def _build_resize(cfg: CfgNode) -> T.Augmentation:
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
    if sampling == "range":
        sizes = sizes * 2 if len(sizes) == 1 else sizes  # one size: the range from it to itself
        if len(sizes) != 2 or sizes[0] > sizes[1]:
            raise ValueError(
                f"INPUT.MIN_SIZE_TRAIN {sizes} must be (smallest, largest) if "
                "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'; set that to 'choice' for a list of sizes"
            )
    return _resize_class(cfg)(sizes, cfg.INPUT.MAX_SIZE_TRAIN, sampling)


def _resize_class(cfg: CfgNode) -> type[T.ResizeShortestEdge]:
    resize_with = cfg.INPUT.RESIZE_WITH
    if resize_with == "OPENCV":
        check_opencv()
    return _RESIZES[resize_with]


def _build_crop(cfg: CfgNode) -> T.Augmentation:
    crop_type, size = cfg.INPUT.CROP.TYPE, tuple(cfg.INPUT.CROP.SIZE)
    is_relative = crop_type.startswith("relative")
    is_valid = max(size) <= 1 if is_relative else all(side == int(side) for side in size)
    if is_valid and crop_type == "absolute_range":
        is_valid = size[0] <= size[1]
    if not is_valid:
        meaning = {
            "absolute": "(height, width) in whole pixels",
            "absolute_range": "(smallest, largest) side in whole pixels",
        }.get(crop_type, "(height, width) as fractions in (0, 1]")
        raise ValueError(
            f"INPUT.CROP.SIZE {size} must be {meaning} if INPUT.CROP.TYPE is {crop_type!r}"
        )
    return T.RandomCrop(crop_type, size if is_relative else tuple(int(side) for side in size))
