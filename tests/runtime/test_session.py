"""Session: resize, normalize, run, select and bring into the user's image."""

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from queryinst_runtime import Session
from queryinst_runtime.description import Description, read_description

ROOT = Path(__file__).resolve().parents[2]


def gray(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def mean_of(level: int) -> float:
    """Of a gray image's normalized pixels, where no padding is."""
    return float(np.mean([(level - mean) / std for mean, std in ((100, 50), (110, 55), (120, 60))]))


def test_session_normalizes_selects_scales_clips_and_drops(make_file):
    session = Session(make_file())
    result = session(gray(64, 128, 100))  # resized to 32x64, without padding
    assert result.image_size == (64, 128) and result.names == ["dog", "cat"]  # one lies outside
    np.testing.assert_allclose(result.boxes, [[0, 0, 64, 32], [0, 0, 128, 64]])
    np.testing.assert_allclose(result.mask_boxes[1], [-64, -32, 192, 96])
    np.testing.assert_allclose(result.scores, [0.9, 0.5 - mean_of(100)], atol=1e-6)
    assert result.query_idx.tolist() == [4, 2] and result.category_ids == (17, 18)
    assert result.masks[0, :32, :64].all() and result.masks[0].sum() == 32 * 64
    assert result.masks[1].all()
    assert len(session(gray(64, 128, 100), score=0.7)) == 1
    assert len(session(gray(64, 128, 100), score=0.95)) == 0


def test_session_pads_a_batch_of_different_sizes(make_file):
    images = [gray(32, 32, 10), gray(40, 20, 10), gray(30, 60, 10)]
    results = Session(make_file())(images, batch=3)
    for result, image, size in zip(results, images, ((32, 32), (64, 32), (32, 64)), strict=True):
        assert result.image_size == image.shape[:2]
        share = size[0] * size[1] / 64**2  # the batch is 64x64, padded with zeros
        assert result.scores[1] == pytest.approx(0.5 - mean_of(10) * share, abs=1e-5)
        height, width = image.shape[:2]
        np.testing.assert_allclose(result.boxes[1], [0, 0, width, height])
    alone = Session(make_file())(images)
    assert alone[0].scores[1] == pytest.approx(0.5 - mean_of(10), abs=1e-5)
    assert Session(make_file())([]) == []


def test_session_takes_paths_pillow_and_bgr(make_file, tmp_path):
    session = Session(
        make_file(input_format="BGR", pixel_mean=(0, 0, 0), pixel_std=(1e3, 1e6, 1e6))
    )
    image = gray(32, 32, 0)
    image[..., 2] = 90  # blue: the first channel of the network
    Image.fromarray(image).save(tmp_path / "x.png")
    for form in (image, str(tmp_path / "x.png"), tmp_path / "x.png", Image.fromarray(image)):
        assert session(form).scores[1] == pytest.approx(0.5 - 0.03, abs=1e-5)
    assert session(image, channels="BGR").scores[1] == pytest.approx(0.5, abs=1e-3)
    assert session(image[..., 2]).scores[1] == pytest.approx(0.5 - 0.03, abs=1e-3)  # gray


def test_session_of_a_fixed_size_shrinks_what_does_not_fit(make_file):
    session = Session(make_file(size=(32, 32)))
    result = session(gray(60, 120, 10))  # 16x32 of 32x32
    assert result.scores[1] == pytest.approx(0.5 - mean_of(10) / 2, abs=1e-5)
    np.testing.assert_allclose(result.boxes[1], [0, 0, 120, 60])


def test_session_may_be_called_from_several_threads(make_file):
    session = Session(make_file())
    levels = list(range(0, 60, 3))
    scores: dict[int, float] = {}

    def predict(level):
        scores[level] = float(session(gray(32, 64, level)).scores[1])

    threads = [threading.Thread(target=predict, args=(level,)) for level in levels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == {x: pytest.approx(0.5 - mean_of(x), abs=1e-4) for x in levels}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"score": 1.5}, "score 1.5 must be a number in"),
        ({"batch": 0}, "batch 0 must be a whole number of at least 1"),
        ({"batch": 1.5}, "batch 1.5 must be a whole number"),
        ({"score": "x"}, "score 'x' must be a number in"),
        ({"channels": "YUV"}, "'YUV' must be 'RGB' or 'BGR'"),
    ],
)
def test_session_says_what_is_wrong_in_one_line(make_file, options, message):
    with pytest.raises(ValueError, match=message):
        Session(make_file())(gray(8, 8, 0), **options)


def test_session_refuses_what_is_not_a_number(make_file):
    session = Session(make_file(pixel_std=(float("nan"), 1, 1)))
    with pytest.raises(ValueError, match="model.onnx computes boxes or scores that are not num"):
        session(gray(8, 8, 0))


def test_session_says_what_a_file_is(make_file, tmp_path):
    with pytest.raises(ValueError, match="no MoonProvider here, only .*CPUExecutionProvider"):
        Session(make_file(), providers=["MoonProvider"])
    with pytest.raises(FileNotFoundError, match="no file"):
        Session(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("no such thing")
    with pytest.raises(ValueError, match="cannot open .*text.onnx") as error:
        Session(tmp_path / "text.onnx")
    assert "\n" not in str(error.value)
    proto = onnx.load(make_file())
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="bare.onnx has no metadata under 'queryinst'"):
        Session(tmp_path / "bare.onnx")


def test_description_survives_its_text_and_refuses_others(about: Description):
    assert read_description(about.to_json(), "x") == about
    values = json.loads(about.to_json())
    later = json.dumps({**values, "a_later_field": 1})
    assert read_description(later, "x") == about
    for text in ("[]", "{", json.dumps({**values, "format_version": 2}), '{"format_version": 1}'):
        with pytest.raises(ValueError, match="x.onnx: its metadata cannot be read"):
            read_description(text, "x.onnx")
    assert Description(**{**about.__dict__, "dataset_id_map": {17: 0}}).category_ids == ()


def test_session_needs_neither_torch_nor_detectron2(make_file, tmp_path):
    """NumPy, Pillow and ONNX Runtime, and what they need, suffice to predict."""
    script = """
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in BLOCKED:
                    raise ImportError(f"{name} is blocked")

        BLOCKED = {"torch", "torchvision", "detectron2", "queryinst", "cv2", "scipy", "pycocotools"}
        sys.meta_path.insert(0, Block())
        import numpy as np
        from queryinst_runtime import Session

        result = Session(sys.argv[1])(np.full((64, 128, 3), 100, np.uint8))
        result.save(sys.argv[2])
        blocked = sorted(BLOCKED & set(sys.modules))
        print(len(result), int(result.masks.sum()), result.names, blocked)
    """
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(make_file()), str(picture)],
        env={"PYTHONPATH": str(ROOT / "projects/QueryInst"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"2 {32 * 64 + 64 * 128} ['dog', 'cat'] []", done.stderr
    assert Image.open(picture).size[0] >= 128
