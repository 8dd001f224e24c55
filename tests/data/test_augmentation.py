"""Augmentations and the mapper, tested by drawing: pixels must say what masks and boxes say."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from queryinst.config import add_queryinst_config
from queryinst.data.augmentation import build_augmentations
from queryinst.data.mapper import build_mapper
from queryinst.data.resize import ResizeShortestEdge

HEIGHT, WIDTH = 60, 90
# An L: whole corners of its box are empty, so that a crop may hold box but no mask.
POLYGON = [20, 10, 30, 10, 30, 44, 70, 44, 70, 50, 20, 50]
BOX_XYWH = [20, 10, 50, 40]


def make_cfg(**overrides):
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (40, 60, 83)
    cfg.INPUT.MAX_SIZE_TRAIN = 120
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = [20, 40]
    cfg.INPUT.CROP.RESIZE_BEFORE = (50, 70)
    cfg.merge_from_list(
        [x for key, value in overrides.items() for x in (key.replace("__", "."), value)]
    )
    return cfg


def take_nearest(augmentation):
    """Let images be resized as masks are, so that both can be compared exactly."""
    if isinstance(augmentation, T.ResizeShortestEdge):
        augmentation.interp = Image.NEAREST
    for inner in getattr(augmentation, "augs", []) or [getattr(augmentation, "aug", None)]:
        if inner is not None:
            take_nearest(inner)


def encode(kind, mask):
    if kind == "polygon":
        return [list(POLYGON)]
    rle = mask_util.encode(np.asfortranarray(mask))
    if kind == "rle":
        return rle
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.flatten(order="F"), [0]])))
    ends = (
        np.concatenate([[0], runs, [mask.size]])
        if runs[-1] != mask.size
        else np.concatenate([[0], runs])
    )
    return {"size": list(mask.shape), "counts": np.diff(ends).tolist()}


@pytest.fixture
def drawn(tmp_path):
    """An image whose red channel is the object's mask and whose green channel is its box."""
    mask = mask_util.decode(mask_util.frPyObjects([POLYGON], HEIGHT, WIDTH)[0])
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = mask * 255
    x, y, w, h = BOX_XYWH
    pixels[y : y + h, x : x + w, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "drawn.png")

    def make_dict(kind="polygon"):
        annotation = {
            "bbox": list(BOX_XYWH),
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 2,
            "segmentation": encode(kind, mask),
        }
        return {
            "file_name": str(tmp_path / "drawn.png"),
            "height": HEIGHT,
            "width": WIDTH,
            "image_id": 1,
            "annotations": [annotation],
        }

    return make_dict


def bounds(mask):
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize(
    "kind, flip",
    [("polygon", "horizontal"), ("rle", "horizontal"), ("counts", "none"), ("polygon", "vertical")],
)
def test_instance_mapper_keeps_masks_and_boxes_on_the_pixels(drawn, kind, flip):
    np.random.seed(0)
    cfg = make_cfg(INPUT__CROP__ENABLED=True, INPUT__RANDOM_FLIP=flip)
    mapper = build_mapper(cfg, True)
    take_nearest(mapper.augmentations)
    num_cropped = num_empty = 0
    for _ in range(50):
        out = mapper(drawn(kind))
        image, instances = out["image"].numpy(), out["instances"]
        assert instances.image_size == image.shape[1:] == tuple(instances.gt_masks.image_size)
        in_mask, in_box = image[0] == 255, image[1] == 255
        num_cropped += abs(image.shape[2] / image.shape[1] - WIDTH / HEIGHT) > 0.05
        if not in_mask.any():
            num_empty += 1
            assert len(instances) == 0 and instances.gt_masks.tensor.shape == (0, *image.shape[1:])
            continue
        assert instances.gt_classes.tolist() == [2]
        np.testing.assert_array_equal(instances.gt_masks.tensor[0].numpy(), in_mask)
        # nearest sampling moves an edge by at most one pixel of the output for each of two resizes
        # and one of the input, which may have been enlarged by 120 / 20
        assert np.abs(instances.gt_boxes.tensor[0].numpy() - bounds(in_box)).max() <= 7
    assert num_cropped > 10 and num_empty > 0


@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_instance_mapper_resizes_integer_boxes_exactly(drawn, kind):
    cfg = make_cfg(
        INPUT__MIN_SIZE_TRAIN=(83,), INPUT__RANDOM_FLIP="none", INPUT__MAX_SIZE_TRAIN=999
    )
    instances = build_mapper(cfg, True)(drawn(kind))["instances"]
    new_height, new_width = instances.image_size
    assert (new_height, new_width) == (83, 125)
    scale = np.array([new_width / WIDTH, new_height / HEIGHT] * 2)
    expected = np.array([20, 10, 70, 50]) * scale
    np.testing.assert_allclose(instances.gt_boxes.tensor[0].numpy(), expected, atol=1e-4)


def test_instance_mapper_resizes_image_and_masks_alike(drawn):
    for size in (23, 47, 83, 140):
        cfg = make_cfg(
            INPUT__MIN_SIZE_TRAIN=(size,), INPUT__RANDOM_FLIP="none", INPUT__MAX_SIZE_TRAIN=999
        )
        out = build_mapper(cfg, True)(drawn())
        weight = out["image"][0].numpy() / 255.0
        mask = out["instances"].gt_masks.tensor[0].numpy().astype(float)
        for axis in (0, 1):
            along = np.arange(mask.shape[1 - axis])
            centres = [(m.sum(axis) * along).sum() / m.sum() for m in (weight, mask)]
            assert abs(centres[0] - centres[1]) < 0.5


def test_instance_mapper_crops_both_halves_of_a_polygon_that_crosses_itself(drawn):
    cfg = make_cfg(
        INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="relative", INPUT__CROP__SIZE=[1.0, 1.0]
    )
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (HEIGHT,), "none"
    record = drawn()
    record["annotations"][0]["segmentation"] = [[20, 10, 70, 50, 70, 10, 20, 50]]
    mask = build_mapper(cfg, True)(record)["instances"].gt_masks.tensor[0]
    assert mask[28:32, 22].any() and mask[28:32, 67].any()


def test_instance_mapper_removes_what_a_crop_cuts_away(drawn):
    """Beside the object: no box. In its box's empty corner: a box, but nothing to be seen."""
    record = drawn()
    for window in [(75, 0, 15, 60), (40, 12, 25, 25)]:
        mapper = build_mapper(make_cfg(), True)
        mapper.augmentations = T.AugmentationList([T.CropTransform(*window)])
        instances = mapper(record)["instances"]
        assert len(instances) == 0 and instances.has("gt_masks")


def test_instance_mapper_clips_boxes(drawn):
    mapper = build_mapper(make_cfg(), True)
    mapper.augmentations = T.AugmentationList([T.CropTransform(25, 5, 40, 30)])
    instances = mapper(drawn())["instances"]
    assert instances.gt_boxes.tensor[0].tolist() == [0, 5, 40, 30]
    assert bounds(instances.gt_masks.tensor[0].numpy()).tolist() == [0, 5, 5, 30]


def test_instance_mapper_supports_crowds_and_images_without_instances(drawn):
    record = drawn()
    record["annotations"][0]["iscrowd"] = 1
    instances = build_mapper(make_cfg(), True)(record)["instances"]
    assert len(instances) == 0 and instances.gt_masks.tensor.shape == (0, *instances.image_size)
    assert "annotations" in record  # the data set's dict is left as it is


def test_instance_mapper_does_not_read_masks_without_mask_on(drawn):
    record = drawn()
    record["annotations"][0]["segmentation"] = "no mask"
    instances = build_mapper(make_cfg(MODEL__MASK_ON=False), True)(record)["instances"]
    assert len(instances) == 1 and not instances.has("gt_masks")


def test_instance_mapper_keeps_masks_of_overlapping_objects_apart(tmp_path):
    """Several random polygons in one image, each the pixels of one bit."""
    rng = np.random.default_rng(0)
    np.random.seed(1)
    pixels, annotations = np.zeros((HEIGHT, WIDTH), np.uint8), []
    for bit in range(6):
        points = rng.uniform([0, 0], [WIDTH, HEIGHT], (4, 2)).round(1)
        polygon = [points.ravel().tolist()]
        pixels |= mask_util.decode(mask_util.frPyObjects(polygon, HEIGHT, WIDTH)[0]) << bit
        low, high = points.min(0), points.max(0)
        box = [*low.tolist(), *high.tolist()]
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": bit}
        annotations.append({**annotation, "segmentation": polygon})
    Image.fromarray(pixels).save(tmp_path / "bits.png")
    record = {"file_name": str(tmp_path / "bits.png"), "annotations": annotations}
    mapper = build_mapper(make_cfg(INPUT__CROP__ENABLED=True), True)
    take_nearest(mapper.augmentations)
    for _ in range(40):
        out = mapper(record)
        bits = out["image"][0]
        instances = out["instances"]
        visible = [bit for bit in range(6) if (bits >> bit & 1).any()]
        assert instances.gt_classes.tolist() == visible
        for bit, mask, box in zip(visible, instances.gt_masks.tensor, instances.gt_boxes.tensor):
            torch.testing.assert_close(mask, (bits >> bit & 1).bool())
            left, top, right, bottom = bounds(mask.numpy())
            outside = max(box[0] - left, box[1] - top, right - box[2], bottom - box[3])
            assert outside <= 7  # as above


def test_build_augmentations_crops_one_image_in_two_as_detr():
    np.random.seed(0)
    cfg = make_cfg(INPUT__CROP__ENABLED=True, INPUT__MIN_SIZE_TRAIN=(0,), INPUT__RANDOM_FLIP="none")
    augmentations = T.AugmentationList(build_augmentations(cfg, True))
    sizes = []
    for _ in range(300):
        aug_input = T.AugInput(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        augmentations(aug_input)
        sizes.append(aug_input.image.shape[:2])
    cropped = [size for size in sizes if size != (HEIGHT, WIDTH)]
    assert 110 < len(cropped) < 190
    assert {side for size in cropped for side in size} == set(range(20, 41))


def test_build_augmentations_supports_a_range_of_sizes_and_no_flip():
    np.random.seed(0)
    cfg = make_cfg(INPUT__MIN_SIZE_TRAIN=(30, 40), INPUT__MIN_SIZE_TRAIN_SAMPLING="range")
    cfg.INPUT.RANDOM_FLIP = "none"
    augmentations = build_augmentations(cfg, True)
    assert [type(augmentation) for augmentation in augmentations] == [ResizeShortestEdge]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    heights = {augmentations[0].get_transform(image).new_h for _ in range(200)}
    assert heights == set(range(30, 41))


@pytest.mark.parametrize(
    "size, expected", [(30, (30, 45)), (60, (60, 90)), (0, (60, 90)), (80, (66, 99))]
)
def test_build_augmentations_only_resizes_in_evaluation(drawn, size, expected):
    cfg = make_cfg(INPUT__MIN_SIZE_TEST=size, INPUT__MAX_SIZE_TEST=99, INPUT__CROP__ENABLED=True)
    out = build_mapper(cfg, False)(drawn())
    assert tuple(out["image"].shape) == (3, *expected) and out["image"].dtype == torch.uint8
    assert (out["height"], out["width"]) == (HEIGHT, WIDTH)
    assert "instances" not in out and "annotations" not in out


def test_build_augmentations_puts_other_crops_first():
    cfg = make_cfg(
        INPUT__CROP__ENABLED=True, INPUT__CROP__TYPE="relative_range", INPUT__CROP__SIZE=[0.5, 0.5]
    )
    kinds = [type(augmentation) for augmentation in build_augmentations(cfg, True)]
    assert kinds == [T.RandomCrop, T.RandomFlip, ResizeShortestEdge]


@pytest.mark.parametrize(
    "key, value, message",
    [
        (
            "INPUT.RANDOM_FLIP",
            "both",
            "'both' must be one of horizontal, .*; set INPUT.RANDOM_FLIP",
        ),
        (
            "INPUT.MIN_SIZE_TRAIN_SAMPLING",
            "all",
            "'all' must be one of choice, range; set INPUT.MIN_SIZE_TRAIN_SAMPLING",
        ),
        (
            "INPUT.MIN_SIZE_TRAIN_SAMPLING",
            "range",
            r"INPUT.MIN_SIZE_TRAIN \(40, 60, 83\) must be \(sm",
        ),
        ("INPUT.MIN_SIZE_TRAIN", (), r"\(\) must hold .*; set INPUT.MIN_SIZE_TRAIN"),
        ("INPUT.MIN_SIZE_TRAIN", (-1,), "-1 must be >= 0; set INPUT.MIN_SIZE_TRAIN"),
        ("INPUT.MAX_SIZE_TRAIN", 0, "0 must be >= 1; set INPUT.MAX_SIZE_TRAIN"),
        ("INPUT.CROP.TYPE", "square", "'square' must be one of relative, .*; set INPUT.CROP.TYPE"),
        ("INPUT.CROP.SIZE", [50, 40], r"INPUT.CROP.SIZE \(50, 40\) must be \(smallest, largest\)"),
        (
            "INPUT.CROP.SIZE",
            [0.9, 0.9],
            r"INPUT.CROP.SIZE \(0.9, 0.9\) must be .* 'absolute_range'",
        ),
        ("INPUT.CROP.SIZE", [40], r"\[40\] must hold 2 values; set INPUT.CROP.SIZE"),
        ("INPUT.CROP.TYPE", "relative", r"INPUT.CROP.SIZE \(20, 40\) must be .* fractions"),
        ("INPUT.CROP.RESIZE_BEFORE", (), r"\(\) must hold .*; set INPUT.CROP.RESIZE_BEFORE"),
    ],
)
def test_build_augmentations_refuses_invalid_values(key, value, message):
    cfg = make_cfg(INPUT__CROP__ENABLED=True)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_augmentations(cfg, True)


def test_build_mapper_refuses_invalid_test_sizes_and_mask_format():
    with pytest.raises(ValueError, match="-1 must be >= 0; set INPUT.MIN_SIZE_TEST"):
        build_augmentations(make_cfg(INPUT__MIN_SIZE_TEST=-1), False)
    with pytest.raises(ValueError, match="0 must be >= 1; set INPUT.MAX_SIZE_TEST"):
        build_augmentations(make_cfg(INPUT__MAX_SIZE_TEST=0), False)
    with pytest.raises(ValueError, match="set INPUT.MASK_FORMAT bitmask"):
        build_mapper(make_cfg(INPUT__MASK_FORMAT="polygon"), True)
    build_mapper(make_cfg(INPUT__MASK_FORMAT="polygon", MODEL__MASK_ON=False), True)
