import itertools
import logging
import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.data.video_reading import VideoReader
from queryinst.data.video_writing import VideoWriter
from queryinst.demo import build_parser, main, visualize
from queryinst.demo.files import find_images, plan_outputs
from queryinst.demo.visualize import enlargement
from queryinst.engine.predictor import Predictor
from queryinst.testing import tiny_cfg

NAMES = ["circle", "square", "star"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of random weights whose class prior makes all scores 0.75 or so, with its meta."""
    torch.manual_seed(0)
    cfg = tiny_cfg(MODEL__QUERYINST__PRIOR_PROB=0.75, TEST__DETECTIONS_PER_IMAGE=5)
    folder = tmp_path_factory.mktemp("weights")
    meta = {**build_meta(cfg, None), "thing_classes": NAMES}
    QueryInstCheckpointer(build_model(cfg), str(folder), meta=meta).save("model_final")
    return str(folder / "model_final.pth")


def picture(path, height=40, width=60, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


def enlarged(image):
    return image.repeat(4, axis=0).repeat(4, axis=1)


def test_main_takes_images_folders_and_globs(tmp_path, weights):
    single = picture(tmp_path / "single.jpg")
    picture(tmp_path / "folder" / "one.png")
    picture(tmp_path / "folder" / "gray.png", mode="L")
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    picture(tmp_path / "globbed" / "one.png", mode="RGBA")
    out = tmp_path / "out"
    inputs = [single, str(tmp_path / "folder"), str(tmp_path / "globbed" / "*.png")]
    assert main(["--input", *inputs, "--output", str(out), "--opts", "MODEL.WEIGHTS", weights]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "gray.png",
        "one-2.png",
        "one.png",
        "single.jpg",
    ]
    drawn = np.asarray(Image.open(out / "one.png"))
    original = np.asarray(Image.open(tmp_path / "folder" / "one.png"))
    assert drawn.shape == (160, 240, 3)  # 40 x 60, four times as large
    assert (drawn != enlarged(original)).any()


def test_main_draws_the_names_of_the_checkpoint(tmp_path, weights, monkeypatch):
    texts = []
    draw_text = Visualizer.draw_text

    def spy(self, text, *args, **kwargs):
        texts.append(text)
        return draw_text(self, text, *args, **kwargs)

    monkeypatch.setattr(Visualizer, "draw_text", spy)
    args = ["--input", picture(tmp_path / "a.png"), "--output", str(tmp_path / "b.png")]
    assert main([*args, "--opts", "MODEL.WEIGHTS", weights]) == 0
    instances = Predictor.from_checkpoint(weights)(cv2.imread(args[1]))["instances"]
    assert len(texts) == len(instances) > 0
    assert all(re.fullmatch("(circle|square|star) [5-9][0-9]%", text) for text in texts)


def test_main_draws_numbers_for_classes_without_names(tmp_path, monkeypatch, caplog):
    cfg = tiny_cfg(MODEL__QUERYINST__PRIOR_PROB=0.75, TEST__DETECTIONS_PER_IMAGE=5)
    QueryInstCheckpointer(build_model(cfg), str(tmp_path), meta=build_meta(cfg, None)).save("a")
    texts = []
    monkeypatch.setattr(Visualizer, "draw_text", lambda self, text, *_, **__: texts.append(text))
    args = ["--input", picture(tmp_path / "a.png"), "--output", str(tmp_path / "b.png")]
    assert main([*args, "--opts", "MODEL.WEIGHTS", str(tmp_path / "a.pth")]) == 0
    assert len(texts) == 5
    assert all(re.fullmatch("class [012] [5-9][0-9]%", text) for text in texts)


def test_main_draws_nothing_below_the_threshold(tmp_path, weights):
    out = tmp_path / "drawn.png"
    args = ["--input", picture(tmp_path / "a.png"), "--output", str(out)]
    args += ["--confidence-threshold", "1.0", "--opts", "MODEL.WEIGHTS", weights]
    assert main(args) == 0
    original = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(Image.open(out)), enlarged(original))


def test_main_takes_flags_behind_options(tmp_path, weights):
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    args = ["--input", image, "--opts", "MODEL.WEIGHTS", weights, "--output", str(out)]
    assert main([*args, "--opts", "TEST.DETECTIONS_PER_IMAGE", "2"]) == 0
    assert [path.name for path in out.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "flag, key, threshold",
    [(None, None, 0.5), (None, "0.8", 0.8), ("0.3", None, 0.3), ("0.3", "0.8", 0.3)],
)
def test_load_takes_the_threshold_of_the_flag_then_of_the_options(
    weights, caplog, flag, key, threshold
):
    name = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    opts = ["--opts", "MODEL.WEIGHTS", weights, *((name, key) if key else ())]
    flags = ["--confidence-threshold", flag] if flag else []
    with caplog.at_level(logging.WARNING, logger="queryinst"):
        predictor = visualize._load(build_parser().parse_args(["--webcam", *flags, *opts]))
    assert predictor.model.score_threshold == threshold
    said = f"--confidence-threshold 0.3 replaces {name} 0.8"
    assert (said in caplog.text) == bool(flag and key)


def test_main_draws_an_image_of_a_single_row(tmp_path, weights):
    slivers = [picture(tmp_path / "row.png", 1, 20000), picture(tmp_path / "column.png", 9000, 1)]
    whole, out = picture(tmp_path / "whole.png"), tmp_path / "out"
    args = ["--input", *slivers, whole, "--output", str(out), "--opts", "MODEL.WEIGHTS", weights]
    assert main(args) == 0
    assert Image.open(out / "row.png").size == (20000, 1)
    assert Image.open(out / "column.png").size == (1, 9000)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, MemoryError])
def test_main_leaves_out_and_counts_an_image_that_cannot_be_predicted(
    tmp_path, weights, capfd, caplog, monkeypatch, error
):
    first, second = picture(tmp_path / "1.png", width=61), picture(tmp_path / "2.png")
    predict = Predictor.__call__

    def predict_even_ones(self, image):
        if image.shape[1] % 2:
            raise error("it is odd")
        return predict(self, image)

    monkeypatch.setattr(Predictor, "__call__", predict_even_ones)
    args = ["--input", first, second, "--output", str(tmp_path / "out")]
    args += ["--opts", "MODEL.WEIGHTS", weights]
    assert "1 of 2 images could not be read or predicted" in error_of(capfd, args)
    assert f"left out: {first}: it is odd" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2.png"]


def written_video(path, num_frames=3, size=(64, 48), rate=10):
    with VideoWriter(path, rate) as writer:
        for index in range(num_frames):
            writer.write(np.full((size[1], size[0], 3), 40 * (index + 1), np.uint8))
    return str(path)


@pytest.mark.parametrize("size, codec", [((64, 48), "h264"), ((65, 47), "vp9")])
def test_main_writes_a_video_for_browsers_of_the_same_size_and_rate(tmp_path, weights, size, codec):
    rate = Fraction(30000, 1001)
    source = written_video(tmp_path / "in.avi", size=size, rate=rate)
    out = tmp_path / "out"
    args = ["--video-input", source, "--output", str(out), "--opts", "MODEL.WEIGHTS", weights]
    assert main(args) == 0
    assert [path.name for path in out.iterdir()] == ["in.mp4"]
    with av.open(str(out / "in.mp4")) as made:
        stream = made.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == (codec, "yuv420p")
        assert stream.average_rate == rate
        frames = [frame.to_ndarray(format="rgb24") for frame in made.decode(stream)]
    assert [frame.shape for frame in frames] == [(size[1], size[0], 3)] * 3
    assert all(len(np.unique(frame)) > 30 for frame in frames)  # of one gray, and drawn on


def test_main_leaves_a_playable_file_when_interrupted(tmp_path, weights, monkeypatch):
    source, made = written_video(tmp_path / "in.mp4", 5), tmp_path / "out.mp4"
    call, count = Predictor.__call__, itertools.count()

    def interrupted(self, image):
        if next(count) == 3:
            raise KeyboardInterrupt
        return call(self, image)

    monkeypatch.setattr(Predictor, "__call__", interrupted)
    args = ["--video-input", source, "--output", str(made), "--opts", "MODEL.WEIGHTS", weights]
    assert main(args) == 1
    assert len(list(VideoReader(made))) == 3


@pytest.mark.parametrize("name", ["o.gif", "o.wmv", "o.txt"])
def test_main_makes_no_folder_of_a_files_name(tmp_path, weights, capfd, name):
    source = written_video(tmp_path / "in.mp4")
    args = ["--video-input", source, "--output", str(tmp_path / name)]
    assert f"{name}: a video is written as .avi" in error_of(
        capfd, [*args, "--opts", "MODEL.WEIGHTS", weights]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def error_of(capfd, args):
    capfd.readouterr()
    assert main(args) == 1
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("demo.py: error: ")
    return lines[-1]


def test_main_leaves_out_and_counts_an_unreadable_image(tmp_path, weights, capfd):
    broken, whole = tmp_path / "broken.png", picture(tmp_path / "whole.png")
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    args = ["--input", str(broken), whole, "--output", str(tmp_path / "out")]
    args += ["--opts", "MODEL.WEIGHTS", weights]
    assert "1 of 2 images" in error_of(capfd, args)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole.png"]


def test_main_leaves_out_an_image_above_the_limit_of_pixels(tmp_path, weights, capfd):
    small, large = picture(tmp_path / "small.png"), picture(tmp_path / "large.png", height=41)
    args = ["--input", small, large, "--output", str(tmp_path / "out")]
    args += ["--opts", "MODEL.WEIGHTS", weights, "INPUT.MAX_PIXELS", "2400"]
    assert "1 of 2 images" in error_of(capfd, args)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["small.png"]


def test_main_prints_errors_of_one_line(tmp_path, weights, capfd, monkeypatch):
    image, opts = picture(tmp_path / "a.png"), ["--opts", "MODEL.WEIGHTS", weights]
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    out = ["--output", str(tmp_path / "out")]
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "file").write_text("a file where a folder is wanted")
    for args, expected in (
        (["--input", image, *opts], "--output"),  # there is no screen
        (["--input", str(tmp_path / "none*.png"), *out, *opts], "none*.png matches no image"),
        (["--input", str(tmp_path / "absent.png"), *out, *opts], "absent.png matches no image"),
        (["--input", image, *out], "MODEL.WEIGHTS"),
        (["--input", image, *out, "--opts", "MODEL.WEIGHTS", "absent.pth"], "absent.pth"),
        (["--config-file", "absent.yaml", "--input", image, *out, *opts], "absent.yaml"),
        (["--input", image, "--output", str(tmp_path), *opts], "would replace the input"),
        (["--input", image, "--output", str(tmp_path / "file" / "x"), *opts], "cannot make"),
        (["--input", image, *out, "--confidence-threshold", "50", *opts], "must be in [0, 1]"),
        (["--video-input", "absent.mp4", *out, *opts], "absent.mp4 is not a file"),
        (["--video-input", str(tmp_path / "text.mp4"), *out, *opts], "no video"),
    ):
        assert expected in error_of(capfd, args), args


def test_enlargement_is_for_small_images_alone():
    assert [enlargement(*size) for size in ((20, 20), (128, 128), (303, 198))] == [4, 4, 2]
    assert [enlargement(*size) for size in ((480, 640), (330, 200), (3000, 4000))] == [1, 1, 1]


def test_find_images_takes_a_file_whose_name_looks_like_a_pattern(tmp_path):
    path = picture(tmp_path / "a[1].png")
    assert find_images([path, path]) == [path]


def test_plan_outputs_gives_one_image_a_file_and_several_a_folder(tmp_path):
    assert plan_outputs(["a.tif"], str(tmp_path / "x.png")) == [str(tmp_path / "x.png")]
    assert plan_outputs(["a.tif"], str(tmp_path / "new")) == [str(tmp_path / "new" / "a.tif")]
    assert plan_outputs(["a.tif"], str(tmp_path / "v1.5")) == [str(tmp_path / "v1.5" / "a.tif")]
    two = plan_outputs(["a.gif", "b/a.gif"], str(tmp_path / "y.png"))
    assert two == [str(tmp_path / "y.png" / "a.png"), str(tmp_path / "y.png" / "a-2.png")]


@pytest.mark.parametrize("name", ["o.gif", "o.GIF", "o.ppm", "o.webp", "o.pdf"])
def test_main_writes_any_image_file_that_pillow_can(tmp_path, weights, name):
    args = ["--input", picture(tmp_path / "a.png"), "--output", str(tmp_path / name)]
    assert main([*args, "--opts", "MODEL.WEIGHTS", weights]) == 0
    assert (tmp_path / name).is_file() and (tmp_path / name).stat().st_size > 500


@pytest.mark.parametrize("name, kind", [("o.svg", "image/svg"), ("o.mp4", "video/mp4")])
def test_plan_outputs_refuses_a_file_that_pillow_cannot_write(tmp_path, name, kind):
    with pytest.raises(ValueError, match=f"{name} is a file of {kind}.*name a folder, or one of"):
        plan_outputs(["a.png"], str(tmp_path / name))
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    assert plan_outputs(["a.png"], str(tmp_path / name)) == [str(tmp_path / name / "a.png")]
