"""INPUT.RESIZE_WITH: OPENCV is MMDetection's resize, PIL stays; what that does to predictions."""

from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.data import resize
from queryinst.data.augmentation import build_augmentations
from queryinst.data.mapper import build_mapper
from queryinst.data.resize import (
    OpenCVResizeShortestEdge,
    OpenCVResizeTransform,
    ResizeShortestEdge,
)
from queryinst.engine.predictor import Predictor
from queryinst.testing import tiny_cfg

# tests/parity/make_resize_golden.py: mmdet 3.3.0, seed 0
GOLDEN = dict(np.load(Path(__file__).parent / "goldens" / "resize.npz"))
NUM_CASES = len(GOLDEN["cases"])


def golden_case(case):
    """The transform of one case, and a function that finds its arrays."""
    short_side, long_side = GOLDEN["cases"][case, 2:].tolist()
    augmentation = OpenCVResizeShortestEdge((short_side,), long_side, "choice")
    transform = augmentation.get_transform(GOLDEN[f"image_{case}"])
    return transform, lambda name: GOLDEN[f"{name}_{case}"]


def test_get_output_shape_equals_mmcvs():
    sizes = GOLDEN["sizes"].tolist()
    assert len(sizes) >= 500
    for height, width, short_side, long_side, *expected in sizes:
        size = (height, width, short_side, long_side)
        assert list(OpenCVResizeShortestEdge.get_output_shape(*size)) == expected, size


def test_get_output_shape_differs_from_detectron2s_by_a_pixel():
    others = [
        np.subtract(T.ResizeShortestEdge.get_output_shape(*row[:4]), row[4:]).tolist()
        for row in GOLDEN["sizes"].tolist()
    ]
    assert others[0] == [0, -1]  # ROUNDS_OTHERWISE, which was looked for
    assert others[1:] == [[0, 0]] * (len(others) - 1)


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_opencv_resize_transform_equals_mmdets(case):
    transform, golden = golden_case(case)
    image = transform.apply_image(golden("image"))
    assert image.dtype == np.uint8 and image.shape == golden("image_out").shape
    # Another OpenCV may round its fixed-point sums otherwise.
    tolerance = 0 if cv2.__version__ == str(GOLDEN["opencv"]) else 1
    assert np.abs(image.astype(int) - golden("image_out")).max() <= tolerance
    masks = [transform.apply_segmentation(np.asfortranarray(mask)) for mask in golden("masks")]
    np.testing.assert_array_equal(masks, golden("masks_out"))
    boxes = transform.apply_box(golden("boxes").astype(float))
    np.testing.assert_allclose(boxes, golden("boxes_out"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_opencv_resize_transform_interpolates_bilinearly(case):
    transform, golden = golden_case(case)
    image = golden("image").astype(float)
    for axis, new_side in ((0, transform.new_h), (1, transform.new_w)):
        side = image.shape[axis]
        place = ((np.arange(new_side) + 0.5) * side / new_side - 0.5).clip(0, side - 1)
        low = np.floor(place).astype(int)
        weight = (place - low).reshape(-1, *[1] * (2 - axis))
        below, above = (np.take(image, i, axis) for i in (low, (low + 1).clip(max=side - 1)))
        image = below * (1 - weight) + above * weight
    assert np.abs(transform.apply_image(golden("image")) - image).max() < 1.5


def test_opencv_resize_transform_supports_channels_types_and_views():
    transform = OpenCVResizeTransform(20, 30, 26, 39)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    resized = transform.apply_image(image)
    np.testing.assert_array_equal(transform.apply_image(image[:, :, ::-1]), resized[:, :, ::-1])
    np.testing.assert_array_equal(transform.apply_image(image[:, :, :1]), resized[:, :, :1])
    np.testing.assert_array_equal(transform.apply_image(image[:, :, 0]), resized[:, :, 0])
    smooth = transform.apply_image(image.astype(np.float32))
    assert smooth.dtype == np.float32 and np.abs(smooth - resized).max() < 1
    mask = image[:, :, 0] > 99
    kept = transform.apply_segmentation(mask)
    assert kept.dtype == bool
    np.testing.assert_array_equal(kept, transform.apply_segmentation(mask.astype(np.uint8)))
    back = transform.inverse()
    assert back.apply_image(resized).shape == image.shape
    points = np.array([[3.0, 7.0], [29.5, 0.0]])
    np.testing.assert_allclose(back.apply_coords(transform.apply_coords(points.copy())), points)


def test_get_output_shape_is_at_least_1():
    assert OpenCVResizeShortestEdge.get_output_shape(1, 5000, 800, 1333) == (1, 1333)
    keep = OpenCVResizeShortestEdge((0,), 1333, "choice").get_transform(np.zeros((4, 6, 3)))
    assert isinstance(keep, T.NoOpTransform)


@pytest.mark.parametrize("is_train", [False, True])
@pytest.mark.parametrize("resize_with", ["PIL", "OPENCV"])
@pytest.mark.parametrize("size, expected", [((1, 20000), (1, 1333)), ((9000, 2), (1333, 1))])
def test_build_augmentations_keeps_a_sliver_a_pixel_wide(resize_with, is_train, size, expected):
    cfg = tiny_cfg(INPUT__RESIZE_WITH=resize_with, INPUT__RANDOM_FLIP="none")
    augmentation = build_augmentations(cfg, is_train)[0]
    image = np.full((*size, 3), 77, np.uint8)
    resized = augmentation.get_transform(image).apply_image(image)
    assert resized.shape == (*expected, 3) and (resized == 77).all()


@pytest.mark.parametrize("size", [(480, 640), (33, 801), (5, 5), (2, 900)])
def test_resize_shortest_edge_is_detectron2s_otherwise(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    own, theirs = (
        kind((64,), 133, "choice") for kind in (ResizeShortestEdge, T.ResizeShortestEdge)
    )
    if min(theirs.get_output_shape(*size, 64, 133)) > 0:
        expected = theirs.get_transform(image).apply_image(image)
        np.testing.assert_array_equal(own.get_transform(image).apply_image(image), expected)
    none = ResizeShortestEdge((0,), 133, "choice").get_transform(image)
    assert isinstance(none, T.NoOpTransform)


@pytest.mark.parametrize("sampling, sizes", [("choice", (30, 40, 50, 60)), ("range", (30, 60))])
def test_opencv_resize_shortest_edge_draws_the_sizes_of_detectron2(sampling, sizes):
    drawn = {}
    for resize_with in ("PIL", "OPENCV"):
        cfg = tiny_cfg(INPUT__RESIZE_WITH=resize_with, INPUT__MIN_SIZE_TRAIN=sizes)
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.RANDOM_FLIP = sampling, "none"
        augmentation = build_augmentations(cfg, True)[0]
        np.random.seed(0)
        image = np.zeros((20, 20, 3), np.uint8)
        drawn[resize_with] = [augmentation.get_transform(image).new_h for _ in range(40)]
    assert drawn["PIL"] == drawn["OPENCV"] and len(set(drawn["PIL"])) > 3


def resizes(augmentations):
    for augmentation in augmentations:
        if isinstance(augmentation, T.ResizeShortestEdge):
            yield type(augmentation)
        elif isinstance(augmentation, T.RandomApply):
            yield from resizes(augmentation.aug.augs)


@pytest.mark.parametrize(
    "resize_with, kind", [("PIL", ResizeShortestEdge), ("OPENCV", OpenCVResizeShortestEdge)]
)
def test_build_augmentations_follows_resize_with_in_every_branch(resize_with, kind):
    cfg = tiny_cfg(INPUT__RESIZE_WITH=resize_with, INPUT__CROP__ENABLED=True)
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", [20, 40]
    assert list(resizes(build_augmentations(cfg, True))) == [kind, kind]
    assert list(resizes(build_augmentations(cfg, False))) == [kind]
    cfg.INPUT.CROP.TYPE = "absolute"
    assert list(resizes(build_augmentations(cfg, True))) == [kind]


def test_build_augmentations_resizes_with_pillow_by_default():
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    mask = image[:, :, 0] > 99
    transform = build_augmentations(tiny_cfg(), False)[0].get_transform(image)
    expected = Image.fromarray(image).resize((96, 64), Image.BILINEAR)
    np.testing.assert_array_equal(transform.apply_image(image), np.asarray(expected))
    expected = Image.fromarray(mask.astype(np.uint8)).resize((96, 64), Image.NEAREST)
    resized = transform.apply_segmentation(mask.astype(np.uint8))
    np.testing.assert_array_equal(resized, np.asarray(expected))


@pytest.mark.parametrize("is_train", [True, False])
def test_build_augmentations_refuses_an_unknown_resize_with(is_train):
    with pytest.raises(
        ValueError, match="'opencv' must be one of PIL, OPENCV; set INPUT.RESIZE_WITH"
    ):
        build_augmentations(tiny_cfg(INPUT__RESIZE_WITH="opencv"), is_train)


def test_check_opencv_names_the_missing_package(monkeypatch):
    monkeypatch.setattr(resize, "cv2", None)
    build_augmentations(tiny_cfg(), True)
    with pytest.raises(ImportError, match="set INPUT.RESIZE_WITH PIL"):
        build_augmentations(tiny_cfg(INPUT__RESIZE_WITH="OPENCV"), True)


def test_build_mapper_resizes_image_mask_and_box_alike(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "noise.png")
    polygon = [20.0, 10, 30, 10, 30, 44, 70, 44, 70, 50, 20, 50]
    annotation = {"bbox": [20, 10, 50, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
    mapper = build_mapper(
        tiny_cfg(
            INPUT__RESIZE_WITH="OPENCV",
            INPUT__MIN_SIZE_TRAIN=(83,),
            INPUT__MAX_SIZE_TRAIN=200,
            INPUT__RANDOM_FLIP="none",
        ),
        True,
    )
    out = mapper(
        {
            "file_name": str(tmp_path / "noise.png"),
            "image_id": 1,
            "annotations": [{**annotation, "segmentation": [polygon]}],
        }
    )
    expected = cv2.resize(image, (125, 83), interpolation=cv2.INTER_LINEAR)
    assert out["image"].dtype == torch.uint8
    np.testing.assert_array_equal(out["image"].numpy(), expected.transpose(2, 0, 1))
    instances = out["instances"]
    assert instances.image_size == (83, 125)
    mask = mask_util.decode(mask_util.frPyObjects([polygon], 60, 90)[0])
    # the pixel that OpenCV's nearest means: floor of the left, upper corner's place
    rows, columns = np.arange(83) * 60 // 83, np.arange(125) * 90 // 125
    np.testing.assert_array_equal(instances.gt_masks.tensor[0], mask[rows][:, columns] > 0)
    box = np.array([20, 10, 70, 50]) * [125 / 90, 83 / 60, 125 / 90, 83 / 60]
    np.testing.assert_allclose(instances.gt_boxes.tensor[0], box, atol=1e-4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny model with scores from 0 to 1 and refined boxes that stay near their queries'."""
    torch.manual_seed(3)
    model = build_model(tiny_cfg()).eval()
    with torch.no_grad():
        size = 0.2 + 0.3 * torch.rand(6, 2)
        model.initial_queries.boxes_cxcywh_norm[:] = torch.cat([0.3 + 0.4 * size, size], 1)
        for stage in model.cascade.stages:
            stage.cls_logits.weight *= 5
            stage.cls_logits.bias[:] = 0
            stage.box_deltas.weight *= 0.1
    folder = tmp_path_factory.mktemp("weights")
    QueryInstCheckpointer(model, str(folder)).save("model_final")
    return str(folder / "model_final.pth")


def predict(weights, image, resize_with, short_side):
    """Boxes (D, 4), scores and masks, sorted by query and class, of the predictor."""
    cfg = tiny_cfg(
        MODEL__WEIGHTS=weights, INPUT__RESIZE_WITH=resize_with, INPUT__MIN_SIZE_TEST=short_side
    )
    return sort(Predictor(cfg)(image)["instances"])


def sort(instances):
    ordered = instances[(instances.query_idx * 3 + instances.pred_classes).argsort()]
    assert len(ordered) == 18  # all queries with all classes: nothing is missing
    return ordered.pred_boxes.tensor, ordered.scores, ordered.pred_masks


@pytest.fixture
def picture():
    """Noise with structure at every scale, (96, 144, 3) BGR."""
    rng = np.random.default_rng(0)
    layers = [
        rng.integers(0, 256, (96 // k, 144 // k, 3)).repeat(k, 0).repeat(k, 1) for k in (1, 4, 16)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


# Enlarged, both ways are plain bilinear and differ in rounding; shrunk, Pillow averages.
@pytest.mark.parametrize(
    "short_side, levels, max_moved, max_rescored", [(160, (1, 1), 0.1, 0.02), (72, (8, 80), 2, 0.1)]
)
def test_resize_with_changes_predictions_little(
    weights, picture, short_side, levels, max_moved, max_rescored
):
    pixels, predictions = [], []
    for resize_with in ("PIL", "OPENCV"):
        cfg = tiny_cfg(INPUT__RESIZE_WITH=resize_with, INPUT__MIN_SIZE_TEST=short_side)
        transform = build_augmentations(cfg, False)[0].get_transform(picture)
        pixels.append(transform.apply_image(picture).astype(int))
        predictions.append(predict(weights, picture, resize_with, short_side))
    assert levels[0] <= np.abs(pixels[0] - pixels[1]).max() <= levels[1]
    moved, rescored = ((a - b).abs().max() for a, b in zip(predictions[0][:2], predictions[1][:2]))
    assert 0 < moved < max_moved and 0 < rescored < max_rescored


def test_resize_with_gives_equal_predictions_for_equal_pixels(weights, picture):
    pil, opencv = (predict(weights, picture, way, 96) for way in ("PIL", "OPENCV"))
    assert all(torch.equal(a, b) for a, b in zip(pil, opencv))  # nothing to resize
    predictor = Predictor(tiny_cfg(MODEL__WEIGHTS=weights))
    resized = cv2.resize(picture[:, :, ::-1].copy(), (108, 72), interpolation=cv2.INTER_LINEAR)
    image = torch.from_numpy(resized.transpose(2, 0, 1).astype("float32"))
    with torch.no_grad():
        by_hand = predictor.model([{"image": image, "height": 96, "width": 144}])[0]["instances"]
    opencv = predict(weights, picture, "OPENCV", 72)
    assert all(torch.equal(a, b) for a, b in zip(sort(by_hand), opencv))
