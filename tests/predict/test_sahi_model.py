import numpy as np
import pytest
import torch

from queryinst import load
from queryinst.build import build_queryinst
from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.predict import Model
from queryinst.testing import spread_queries, tiny_cfg
from queryinst_runtime.masks import encode_rle
from queryinst_runtime.results import Result

pytest.importorskip("sahi.models.base", reason="the extra sahi", exc_type=ImportError)

from sahi.predict import get_prediction, get_sliced_prediction  # noqa: E402

from queryinst.predict.sahi_model import QueryInstDetectionModel  # noqa: E402

NAMES = ["circle", "square", "star"]
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    model = build_queryinst(tiny_cfg()).eval()
    spread_queries(model)
    folder = tmp_path_factory.mktemp("checkpoint")
    meta = build_meta(tiny_cfg(), None) | {"thing_classes": NAMES}
    QueryInstCheckpointer(model, str(folder), meta=meta).save("model_final")
    return str(folder / "model_final.pth")


def sahis(path, **options):
    known = {"device": "cpu", "confidence_threshold": 0.3}
    return QueryInstDetectionModel(path, **(known | options))


def find_bright(images, score, batch):
    """Instead of a model: the bright pixels, if there are any, are a square."""
    results = []
    for image in images:
        rows, columns = np.nonzero(image[:, :, 0])
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None
        num = int(box is not None and score < 0.75)
        results.append(
            Result(
                image_size=image.shape[:2],
                boxes=np.array([box] * num, np.float32).reshape(-1, 4),
                scores=np.full(num, 0.75, np.float32),
                classes=np.ones(num, np.int64),
                query_idx=np.zeros(num, np.int64),
                class_names=tuple(NAMES),
                rles=[encode_rle(image[:, :, 0] > 0)] * num,
            )
        )
    return results


def bright(left, top, right, bottom):
    image = np.zeros((60, 90, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image


@pytest.fixture
def finder(path, monkeypatch):
    monkeypatch.setattr(Model, "predict", lambda self, images, **keys: find_bright(images, **keys))
    return sahis(path)


def test_sahi_gets_masks_boxes_and_names(finder):
    image = bright(10, 20, 40, 45)
    (found,) = get_prediction(image, finder, verbose=0).object_prediction_list
    assert (found.category.id, found.category.name, found.score.value) == (1, "square", 0.75)
    assert np.array_equal(found.mask.bool_mask, image[:, :, 0] > 0)
    # SAHI computes the box from the outline, through the centres of the outermost pixels
    assert found.bbox.to_xyxy() == [10, 20, 39, 44]
    finder.confidence_threshold = 0.8
    assert get_prediction(image, finder, verbose=0).object_prediction_list == []


def test_sahi_gets_a_box_for_a_mask_without_an_outline(finder):
    (found,) = get_prediction(bright(10, 20, 11, 21), finder, verbose=0).object_prediction_list
    assert found.bbox.to_xyxy() == [10, 20, 11, 21]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sahi_slices(finder, batch_size):
    result = get_sliced_prediction(
        bright(52, 22, 72, 42),  # only in the lower right one of tiles that begin at 0, 38, 42, 12
        finder,
        slice_height=48,
        slice_width=48,
        batch_size=batch_size,
        perform_standard_pred=False,
        verbose=0,
    )
    boxes = [found.bbox.to_xyxy() for found in result.object_prediction_list]
    assert [52, 22, 71, 41] in boxes
    full = [found.mask.bool_mask for found in result.object_prediction_list]
    assert all(mask.shape == (60, 90) for mask in full)


def test_sahi_takes_a_loaded_model_and_a_size(path):
    model = load(path, device="cpu")
    mine = sahis(None, model=model)
    mine.perform_inference(IMAGE)
    assert len(mine.original_predictions[0]) == len(model.predict(IMAGE, score=0.3)) > 0
    small = sahis(path, image_size=32)
    assert small.model.backend.cfg.INPUT.MIN_SIZE_TEST == 32
    assert (small.num_categories, small.category_names) == (3, NAMES)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"model_path": None}, "model_path is None"),
        ({"model": "mine"}, "of type str"),
        ({"mask_threshold": 0.3}, "mask_threshold 0.3 must be 0.5"),
    ],
)
def test_sahi_model_refuses(path, options, text):
    with pytest.raises(ValueError, match=text):
        sahis(options.pop("model_path", path), **options)


def test_sahi_model_refuses_a_size_of_a_loaded_model(path):
    with pytest.raises(ValueError, match="image_size 32 has no effect"):
        sahis(None, model=load(path, device="cpu"), image_size=32)
