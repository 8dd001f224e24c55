"""VideoReader and VideoWriter, read and written back through PyAV's own streams and OpenCV."""

import logging
import tracemalloc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from queryinst.data import video_reading, video_writing
from queryinst.data.video_reading import VideoReader, checked_rate
from queryinst.data.video_writing import VideoWriter

NTSC = Fraction(30000, 1001)


def picture(index, width=64, height=48):
    """(height, width, 3): a frame that is told from its neighbours by its gray."""
    return np.full((height, width, 3), 8 * index % 240, np.uint8)


def write(path, num_frames=10, rate=25, size=(64, 48), times=None):
    with VideoWriter(path, rate) as writer:
        for index in range(num_frames):
            writer.write(picture(index, *size), times[index] if times else None)
    return path


def noisy(path, num_frames=60):
    """A video whose frames take enough bytes to cut between them."""
    generator = np.random.default_rng(0)
    with VideoWriter(path, 30) as writer:
        for _ in range(num_frames):
            writer.write(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return path


def stream_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        size = context.width, context.height
        num_frames = sum(1 for _ in container.decode(stream))
        return context.name, context.pix_fmt, size, stream.average_rate, num_frames


@pytest.mark.parametrize("rate", [NTSC, 25, 12.5, 29.97, Fraction(24000, 1001)])
@pytest.mark.parametrize(
    "name, size, codec",
    [
        ("a.mp4", (64, 48), "h264"),
        ("a.mp4", (65, 48), "vp9"),
        ("a.mp4", (64, 47), "vp9"),
        ("a.MP4", (1, 1), "vp9"),
        ("a.m4v", (64, 48), "h264"),
        ("a.mov", (64, 48), "h264"),
        ("a.mov", (65, 47), "mpeg4"),
        ("a.mkv", (65, 47), "vp9"),
        ("a.webm", (65, 47), "vp9"),
        ("a.avi", (65, 47), "mjpeg"),
    ],
)
def test_writer_keeps_size_rate_and_frames(tmp_path, name, size, codec, rate):
    path = write(tmp_path / name, 10, rate, size)
    exact = {29.97: NTSC, 12.5: Fraction(25, 2)}.get(rate, Fraction(rate))
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    assert stream_of(path) == (codec, pixels, size, exact, 10)
    capture = cv2.VideoCapture(str(path))
    assert capture.read()[1].shape == (size[1], size[0], 3)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(float(exact))
    with VideoReader(path) as video:
        assert (video.rate, video.num_frames) == (exact, 10)
        for index, frame in enumerate(video):
            assert np.abs(frame.pixels.astype(int) - picture(index, *size)).max() <= 4
            assert float(frame.time) == pytest.approx(index / exact, abs=1e-3)


def test_writer_puts_the_index_in_front(tmp_path):
    """So that a browser plays what it has not loaded to the end."""
    content = write(tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_reader_and_writer_keep_the_times_of_a_variable_rate(tmp_path, name):
    times = [Fraction(n, 1000) for n in (0, 40, 80, 200, 210, 333, 1000)]
    path = write(tmp_path / name, len(times), 25, times=times)
    again = tmp_path / f"again-{name}"
    with VideoReader(path) as video, VideoWriter(again, video.rate) as writer:
        for frame in video:
            writer.write(frame.pixels, frame.time)
    read = [float(frame.time) for frame in VideoReader(again)]
    assert read == pytest.approx([float(time) for time in times], abs=2e-3)


def test_writer_of_times_that_go_back_writes_all_frames(tmp_path):
    write(tmp_path / "a.mp4", 4, times=[Fraction(n, 25) for n in (3, 1, 1, 2)])
    assert len(list(VideoReader(tmp_path / "a.mp4"))) == 4


def test_writer_keeps_colours(tmp_path):
    color = np.array([200, 60, 30])
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.full((48, 64, 3), color, np.uint8))
    (frame,) = VideoReader(tmp_path / "a.mp4")
    assert np.abs(frame.pixels.astype(int) - color).max() <= 4


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_reader_turns_frames_upright(tmp_path, degrees):
    """The upper left quarter is white before the turn; OpenCV turns likewise."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = 255
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (frame,) = VideoReader(tmp_path / "a.mp4")
    expected = np.rot90(pixels, degrees // 90)
    assert frame.pixels.shape == expected.shape
    assert np.abs(frame.pixels.astype(int) - expected)[::4, ::4].mean() < 8
    opened = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[1]
    assert np.abs(frame.pixels.astype(int) - opened).mean() < 8


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
def test_reader_reads_a_cut_file_up_to_there(tmp_path, name, caplog):
    content = noisy(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    num_frames = len(list(VideoReader(tmp_path / name)))
    assert 20 <= num_frames <= 32
    assert f"{num_frames} of 60 frames could be read" in caplog.text


def test_reader_goes_on_past_damage(tmp_path):
    content = bytearray(noisy(tmp_path / "a.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (tmp_path / "a.mp4").write_bytes(content)
    assert len(list(VideoReader(tmp_path / "a.mp4"))) > 50


def test_reader_names_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(noisy(tmp_path / "a.mp4").read_bytes()[:100])
    for name in ("text.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=f"{name}.*no video that can be read"):
            VideoReader(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.mp4 is not a file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="64 x 48 = 3072 pixels, INPUT.MAX_PIXELS is 3071"):
        VideoReader(write(tmp_path / "b.mp4"), max_pixels=3071)
    assert len(list(VideoReader(tmp_path / "b.mp4", max_pixels=3072))) == 10


@pytest.mark.parametrize("rate", [0, None, float("nan"), -5, 90_000])
def test_checked_rate_takes_25_with_a_word(rate, caplog):
    assert checked_rate(rate, "clip.mp4") == 25
    assert "clip.mp4 does not say its frame rate" in caplog.text


def test_writer_leaves_a_playable_file_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for index in range(10):
            if index == 7:
                raise KeyboardInterrupt
            writer.write(picture(index))
    assert stream_of(tmp_path / "a.mp4")[-1] == 7


def test_writer_says_what_it_wrote(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "a.mp4", size=(65, 47))
    assert f"wrote {tmp_path}/a.mp4: 10 frames of 65x47, VP9" in caplog.text
    assert "few browsers" not in caplog.text
    write(tmp_path / "a.avi")
    assert "Motion-JPEG in .avi plays in few browsers" in caplog.text


def test_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"a.gif: a video is written as .avi"):
        VideoWriter(tmp_path / "a.gif", 25)
    with pytest.raises(OSError, match="cannot write .*none/a.mp4"):
        VideoWriter(tmp_path / "none" / "a.mp4", 25).write(picture(0))
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(picture(0))
        with pytest.raises(ValueError, match="frame 1 has shape"):
            writer.write(picture(1, width=66))
    VideoWriter(tmp_path / "b.mp4", 25).close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_reader_and_writer_hold_few_frames(tmp_path):
    """Of 400 frames, 30 MB of pixels, what Python holds at most is that of a few."""
    tracemalloc.start()
    try:
        with VideoWriter(tmp_path / "a.mp4", 25) as writer:
            for index in range(400):
                writer.write(picture(index, 192, 128))
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert sum(1 for _ in VideoReader(tmp_path / "a.mp4")) == 400
        _, read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(written, read) < 10 * 192 * 128 * 3


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
def test_opencv_does_what_it_can_without_pyav(tmp_path, monkeypatch, name, caplog):
    monkeypatch.setattr(video_reading, "av", None)
    monkeypatch.setattr(video_writing, "av", None)
    caplog.set_level(logging.INFO)
    path = write(tmp_path / name, 10, 25, (65, 47))
    with VideoReader(path) as video:
        frames = list(video)
    assert (video.rate, len(frames)) == (25, 10)
    assert frames[0].pixels.shape == (48, 66, 3)
    assert float(frames[-1].time) == pytest.approx(9 / 25)
    assert "66x48: OpenCV writes even sizes alone" in caplog.text
    assert f"wrote {path}: 10 frames of 66x48" in caplog.text
