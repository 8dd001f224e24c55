"""predict_video: from a file to drawn frames with identities."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from PIL import Image

from queryinst import load
from queryinst.data.video_reading import Frame, VideoReader
from queryinst.data.video_writing import VideoWriter
from queryinst.predict import predict_video
from queryinst.predict.video import draw_frame
from queryinst_runtime import Result

SIZE = (47, 65)  # height, width: odd


@pytest.fixture(scope="module")
def model(save_tiny_model, tmp_path_factory):
    return load(save_tiny_model(tmp_path_factory.mktemp("weights")), device="cpu")


def still(num_frames):
    """Frames that are all the same, 1/30 s apart."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return (Frame(pixels, Fraction(index, 30)) for index in range(num_frames))


def squares(images):
    """A model that finds one square in each image, as far to the right as its gray says."""
    results = []
    for image in images:
        x = int(image[0, 0, 0])
        results.append(
            Result(
                image_size=image.shape[:2],
                boxes=np.array([[x, 10, x + 20, 30]], np.float32),
                scores=np.ones(1, np.float32),
                classes=np.zeros(1, np.int64),
                query_idx=np.zeros(1, np.int64),
                image=image,
            )
        )
    return results


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_predict_video_keeps_order_times_and_identities(model, batch):
    """Of frames that are all the same, the objects are as well."""
    predicted = list(predict_video(model, still(5), track=True, batch=batch))
    assert [frame.number for frame in predicted] == list(range(5))
    assert [frame.time for frame in predicted] == [Fraction(index, 30) for index in range(5)]
    expected = model(next(still(1)).pixels)
    assert len(expected) > 2
    for frame in predicted:
        assert np.array_equal(frame.result.classes, expected.classes)
        assert frame.result.track_ids.tolist() == list(range(1, 1 + len(expected)))


def test_predict_video_tracks_only_when_asked(model):
    (frame,) = predict_video(model, still(1))
    assert frame.result.track_ids is None
    assert list(predict_video(model, iter(()))) == []


def test_predict_video_takes_options_of_predict(model):
    (frame,) = predict_video(partial(model, score=1.0), still(1), track=True)
    assert len(frame.result) == 0 and frame.result.track_ids.tolist() == []


@pytest.mark.parametrize("batch", [1, 3])
def test_predict_video_holds_a_batch_of_frames(batch):
    """Frames are read as results are taken, not before."""
    num_read = 0

    def frames():
        nonlocal num_read
        for frame in still(50):
            num_read += 1
            yield frame

    for frame in predict_video(squares, frames(), track=True, batch=batch):
        assert num_read <= frame.number + batch
    assert num_read == 50


def test_draw_frame_writes_a_video_of_the_same_size_with_identities(tmp_path):
    """A square moves on; where it is, the drawn frame has its colour, the same in all frames."""
    source, made = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with VideoWriter(source, Fraction(30000, 1001)) as writer:
        for index in range(6):
            writer.write(np.full((*SIZE, 3), 4 * index, np.uint8))
    with VideoReader(source) as video, VideoWriter(made, video.rate) as writer:
        results = []
        for frame in predict_video(squares, video, track=True):
            draw_frame(writer, frame)
            results.append(frame.result)
    assert [result.track_ids.tolist() for result in results] == [[1]] * 6
    with VideoReader(made) as drawn:
        assert drawn.rate == Fraction(30000, 1001)
        frames = [frame.pixels for frame in drawn]
    assert [frame.shape for frame in frames] == [(*SIZE, 3)] * 6
    for result, pixels in zip(results, frames):
        expected = np.asarray(result.draw(enlarge=False))
        assert np.abs(pixels.astype(int) - expected).mean() < 12
        assert (pixels.max(2) > 150).any()  # the black frame alone has nothing bright


def test_draw_shows_identities(monkeypatch):
    """As "#7" in the label; an identity has its colour wherever it is among the objects."""
    from queryinst_runtime import drawing

    (result,) = squares([np.zeros((*SIZE, 3), np.uint8)])
    result.track_ids = np.array([7])
    labels = []
    write = drawing._write

    def spy(canvas, width, box, text, color, font):
        labels.append((text, color))
        write(canvas, width, box, text, color, font)

    monkeypatch.setattr(drawing, "_write", spy)
    assert isinstance(result.draw(), Image.Image)
    assert labels == [("#7 class 0 1.00", drawing.color_of(7))]
