import http.server
import pickle
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from queryinst import load
from queryinst.engine.predictor import Predictor
from queryinst.predict import Model
from queryinst.predict.loading import find_weights, published_names
from queryinst.predict.slicing import detect_sliced
from queryinst.testing import tiny_cfg

NAMES = ["circle", "square", "star"]
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, size, dtype=np.uint8) for size in [(48, 80, 3), (70, 40, 3)]]


@pytest.fixture(scope="module", params=["RGB", "BGR"])
def path(request, save_tiny_model, tmp_path_factory):
    """A checkpoint of a tiny model, with names and ids, of either input format."""
    names = {"thing_classes": NAMES, "dataset_id_map": {5: 0, 9: 2, 7: 1}}
    cfg = tiny_cfg(INPUT__FORMAT=request.param)
    return save_tiny_model(tmp_path_factory.mktemp("checkpoint"), cfg, **names)


@pytest.fixture(scope="module")
def model(path):
    return load(path, device="cpu")


def equal(one, other):
    return (
        np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
        and np.array_equal(one.masks, other.masks)
    )


@pytest.mark.parametrize("index", [0, 1])
def test_model_finds_what_the_predictor_finds(path, model, index):
    image = IMAGES[index]
    expected = Predictor.from_checkpoint(path)(image[:, :, ::-1].copy())["instances"]
    result = model(image)
    assert len(result) == len(expected) > 0
    np.testing.assert_allclose(result.boxes, expected.pred_boxes.tensor, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=1e-6)
    assert result.classes.tolist() == expected.pred_classes.tolist()
    assert result.query_idx.tolist() == expected.query_idx.tolist()
    assert (result.masks != expected.pred_masks.numpy()).mean() < 1e-4
    assert result.class_names == tuple(NAMES) and result.category_ids == (5, 7, 9)


def test_model_takes_every_kind_of_image(tmp_path, model):
    image = IMAGES[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = model(image)
    for same in (
        str(tmp_path / "image.png"),
        tmp_path / "image.png",
        Image.fromarray(image),
        torch.from_numpy(image.transpose(2, 0, 1).copy()),
    ):
        assert equal(model(same), expected)
    assert equal(model(image[:, :, ::-1], channels="BGR"), expected)
    assert not equal(model(image, channels="BGR"), expected)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_model_takes_lists(model, batch):
    """Of one size: in a batch, images of several sizes are padded to the largest."""
    images = [IMAGES[0], IMAGES[0][::-1], IMAGES[0][:, ::-1]]
    results = model(images, batch=batch)
    for result, image in zip(results, images, strict=True):
        alone = model(image)
        assert np.array_equal(result.image, image)
        assert result.classes.tolist() == alone.classes.tolist()
        np.testing.assert_allclose(result.boxes, alone.boxes, rtol=0, atol=1e-2)


def test_model_takes_iterables_and_nothing(model):
    assert model([]) == []
    assert equal(model(iter(IMAGES))[1], model(IMAGES[1]))


def test_model_takes_addresses(tmp_path, model):
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    content = (tmp_path / "image.png").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/image"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(content if found else b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        result = model(f"{url}/image")
        assert equal(result, model(IMAGES[0])) and np.array_equal(result.image, IMAGES[0])
        assert result.draw().size and pickle.loads(pickle.dumps(result)).draw().size
        with pytest.raises(ConnectionError, match="could not be downloaded .HTTP 404"):
            model(f"{url}/none")
        server.shutdown()
    with pytest.raises(ConnectionError, match=f"{url}/image could not be downloaded"):
        model(f"{url}/image")


def test_model_draws_a_file_without_holding_its_pixels(tmp_path, model):
    Image.fromarray(IMAGES[0]).save(tmp_path / "image.png")
    result = model(tmp_path / "image.png")
    assert result.image == str(tmp_path / "image.png") and result.draw().size
    assert pickle.loads(pickle.dumps(result)).names == result.names


@pytest.mark.parametrize("score", [0.0, 0.5])
def test_score_leaves_out_what_does_not_exceed_it(path, model, score):
    everything = model(IMAGES[0])
    kept = int((everything.scores > score).sum())
    assert 0 < kept and (kept < len(everything) or score == 0)
    assert len(model.predict(IMAGES[0], score=score)) == kept
    assert len(load(path, device="cpu", score=score)(IMAGES[0])) == kept
    assert len(model(IMAGES[0])) == len(everything)  # the model's own is as before


@pytest.mark.parametrize(
    "options, text",
    [
        ({"score": 2}, r"score 2 must be a number in \[0, 1\]"),
        ({"score": float("nan")}, "score nan"),
        ({"score": "0.5"}, "score '0.5'"),
        ({"batch": 0}, "batch 0 must be"),
        ({"batch": 1.5}, "batch 1.5 must be"),
        ({"channels": "HSV"}, "channels 'HSV'"),
        ({"slice": 8}, "slice 8 must be"),
        ({"slice": 64, "overlap": 1}, "overlap 1 must be"),
    ],
)
def test_model_refuses_options(model, options, text):
    with pytest.raises(ValueError, match=text):
        model(IMAGES[0], **options)


def test_model_predicts_slices(tmp_path, model):
    sliced = model.predict(IMAGES, slice=32, overlap=0.25, score=0.3)
    for result, image in zip(sliced, IMAGES, strict=True):
        expected = detect_sliced(partial(model.backend.detect, score=0.3), image, 32, 0.25)
        assert equal(result, expected) and result.scores.min() > 0.3
        assert np.array_equal(result.image, image) and result.names == expected.names
        assert len(pickle.loads(pickle.dumps(result)).to_coco()) == len(result) > 0
    assert equal(model.predict(IMAGES[0], slice=80), model(IMAGES[0]))


def test_model_has_test_time_augmentation(path, model):
    keys = ["TEST.AUG.MIN_SIZES", "(48, 64)"]
    with_keys = load(path, device="cpu", opts=keys)
    always = load(path, device="cpu", opts=[*keys, "TEST.AUG.ENABLED", "True"])
    predictor = Predictor.from_checkpoint(str(path), [*keys, "TEST.AUG.ENABLED", "True"])
    expected = predictor(IMAGES[0][:, :, ::-1].copy())["instances"]
    result = with_keys.predict(IMAGES[0], tta=True)
    np.testing.assert_allclose(result.boxes, expected.pred_boxes.tensor, rtol=0, atol=1e-4)
    assert np.array_equal(result.masks, expected.pred_masks) and len(result) > 0
    assert equal(always(IMAGES[0]), result) and not equal(with_keys(IMAGES[0]), result)
    assert equal(always.predict(IMAGES[0], tta=False), model(IMAGES[0]))
    few = with_keys.predict(IMAGES[0], tta=True, score=float(result.scores[3]))
    np.testing.assert_allclose(few.scores, result.scores[:3], rtol=0, atol=0.05)


def test_model_says_who_has_no_test_time_augmentation(model):
    class Exported:
        class_names, max_pixels = (), 10000
        detect = model.backend.detect

        def __repr__(self):
            return "'model.onnx'"

    assert equal(Model(Exported())(IMAGES[0]), model(IMAGES[0]))
    with pytest.raises(ValueError, match="'model.onnx' has no test-time augmentation"):
        Model(Exported()).predict(IMAGES[0], tta=True)


def test_model_refuses_what_is_no_image(model):
    with pytest.raises(ValueError, match="dtype float64"):
        model([IMAGES[0], IMAGES[0] / 255])
    with pytest.raises(FileNotFoundError, match="missing.jpg"):
        model("missing.jpg")


def test_model_may_be_called_from_several_threads(model):
    scores = [0.0, 0.3, 0.5, 0.6] * 3
    expected = [len(model.predict(IMAGES[0], score=score)) for score in scores]
    found = [-1] * len(scores)

    def run(index):
        found[index] = len(model.predict(IMAGES[0], score=scores[index]))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(scores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected and len(set(expected)) > 1


def test_load_names_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="no model 'R_50'.*R_50_FPN_3x_300q"):
        load("R_50")
    with pytest.raises(ValueError, match="no model"):
        load(tmp_path / "missing.pth")


@pytest.mark.parametrize(
    "name",
    [
        "R_50_FPN_1x",
        "queryinst_R_50_FPN_1x",
        "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml",
    ],
)
def test_find_weights_knows_published_models(name):
    assert find_weights(name) == "queryinst://mmdet/queryinst_r50_fpn_1x_coco/5a8f1998.pth"
    assert {"R_50_FPN_1x", "R_50_FPN_3x_300q", "R_101_FPN_3x"} <= set(published_names())


def test_load_takes_options_and_a_configuration(path, tmp_path):
    model = load(path, device="cpu", opts=["TEST.DETECTIONS_PER_IMAGE", "2"])
    assert len(model(IMAGES[0])) == 2 and isinstance(model, Model)
    bare = tmp_path / "bare.pth"
    torch.save({"model": torch.load(path)["model"]}, bare)
    with pytest.raises(ValueError, match="no configuration"):
        load(bare)
    (tmp_path / "tiny.yaml").write_text(model.backend.cfg.dump())
    configured = load(bare, device="cpu", config_file=tmp_path / "tiny.yaml")
    assert equal(configured(IMAGES[1]), model(IMAGES[1]))


def test_model_has_names_without_names(path, tmp_path):
    content = torch.load(path)
    del content["meta"]["thing_classes"], content["meta"]["dataset_id_map"]
    torch.save(content, tmp_path / "nameless.pth")
    result = load(tmp_path / "nameless.pth", device="cpu")(IMAGES[0])
    assert set(result.names) <= {"class 0", "class 1", "class 2"} and result.category_ids == ()
    assert result.draw().size


def test_model_says_that_scores_are_not_numbers(path):
    spoilt = load(path, device="cpu")
    assert len(spoilt(IMAGES[0])) > 0
    with torch.no_grad():
        spoilt.backend.model.cascade.stages[-1].cls_logits.bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"not numbers \(NaN\) for this image"):
        spoilt(IMAGES[0])
