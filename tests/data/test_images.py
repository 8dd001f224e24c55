"""Every kind of image file that people have: read rightly, or refused with the reason."""

import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from queryinst.data.images import check_image_size, read_image

GRAY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def gray_as_rgb(gray=GRAY):
    return np.repeat(gray[..., None], 3, axis=2)


def save(path, image, orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    image.save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_image_keeps_the_high_byte_of_16_bit_grayscale(tmp_path, suffix):
    image = Image.fromarray(GRAY.astype(np.uint16) * 256 + 77)
    assert image.mode == "I;16"
    array = read_image(save(tmp_path / f"a.{suffix}", image), "RGB")
    np.testing.assert_array_equal(array, gray_as_rgb())
    assert array.dtype == np.uint8


def test_read_image_spans_black_to_white_with_16_bits(tmp_path):
    image = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert read_image(save(tmp_path / "a.png", image), "L").tolist() == [[[0], [255]]]


@pytest.mark.parametrize("mode, dtype", [("I", np.int32), ("F", np.float32)])
def test_read_image_refuses_32_bits(tmp_path, mode, dtype):
    file_name = save(tmp_path / "a.tif", Image.fromarray(GRAY.astype(dtype)))
    with pytest.raises(
        ValueError, match=rf"{file_name}: its pixels have 32 bits .*'{mode}'.* save it"
    ):
        read_image(file_name, "RGB")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_read_image_supports_grayscale_in_any_container(tmp_path, mode):
    file_name = save(tmp_path / "a.png", Image.fromarray(GRAY).convert(mode))
    np.testing.assert_array_equal(read_image(file_name, "RGB"), gray_as_rgb())


@pytest.mark.parametrize("alpha", [0, 255])
def test_read_image_ignores_alpha(tmp_path, alpha):
    pixels = np.dstack([COLOUR, np.full((4, 6), alpha, np.uint8)])
    file_name = save(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_image(file_name, "RGB"), COLOUR)
    np.testing.assert_array_equal(read_image(file_name, "BGR"), COLOUR[..., ::-1])


def test_read_image_supports_palettes_and_1_bit(tmp_path):
    four = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    four.putpalette([10, 20, 30, 40, 50, 60])
    expected = [[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [10, 20, 30]]]
    assert read_image(save(tmp_path / "p.png", four), "RGB").tolist() == expected
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert read_image(save(tmp_path / "1.png", bits), "L").tolist() == [[[0], [255]]]


@pytest.mark.parametrize("bits, suffix", [(8, "png"), (16, "png"), (8, "tif")])
@pytest.mark.parametrize(
    "orientation, turn",
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).swapaxes(0, 1)),
        (8, lambda x: np.rot90(x, 1)),
        (99, lambda x: x),
    ],
)
def test_read_image_applies_the_exif_orientation(tmp_path, orientation, turn, bits, suffix):
    image = Image.fromarray(GRAY if bits == 8 else GRAY.astype(np.uint16) * 256)
    file_name = save(tmp_path / f"a.{suffix}", image, orientation)
    np.testing.assert_array_equal(read_image(file_name, "RGB"), gray_as_rgb(turn(GRAY)))


def test_read_image_gives_a_writable_array(tmp_path):
    import torch

    file_name = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(read_image(file_name, "RGB"))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_read_image_refuses_what_is_not_an_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png is not an image that Pillow can read"):
        read_image(tmp_path / "a.png", "RGB")


def test_read_image_names_a_truncated_image(tmp_path):
    file_name = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=f"cannot read image {file_name}: "):
        read_image(file_name, "RGB")


def test_read_image_refuses_a_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read_image(str(tmp_path / "gone.png"), "RGB")


def test_check_image_size_completes_or_compares():
    record = {"file_name": "a.png"}
    check_image_size(record, np.zeros((4, 6, 3)))
    assert (record["height"], record["width"]) == (4, 6)
    check_image_size(record, np.zeros((4, 6, 3)))


def test_check_image_size_refuses_another_size(tmp_path):
    file_name = save(tmp_path / "a.png", Image.fromarray(COLOUR))
    record = {"file_name": file_name, "height": 4, "width": 7}
    with pytest.raises(SizeMismatchError, match="a.png is 6x4, its annotation says 7x4: correct"):
        check_image_size(record, COLOUR)


@pytest.mark.parametrize("orientation, advice", [(6, "its EXIF orientation"), (1, "correct the")])
def test_check_image_size_names_the_exif_orientation(tmp_path, orientation, advice):
    pixels = COLOUR if orientation == 6 else COLOUR.swapaxes(0, 1)
    file_name = save(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(pixels)), orientation)
    record = {"file_name": file_name, "height": 4, "width": 6}
    with pytest.raises(SizeMismatchError, match=f"a.png is 4x6, its annotation says 6x4: {advice}"):
        check_image_size(record, read_image(file_name, "RGB"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(width, height, *extra, pixels=b""):
    """A PNG in RGB by hand, whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("width, height", [(13000, 13000), (10001, 10000), (2**31 - 1, 2**31 - 1)])
def test_read_image_refuses_too_many_pixels_before_decoding(tmp_path, width, height):
    path = tmp_path / "a.png"
    path.write_bytes(make_png(width, height))
    line = f"image {path} has {width} x {height} = {width * height} pixels, INPUT.MAX_PIXELS is "
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("error")
        read_image(path, "RGB")
    assert str(caught.value) == f"{line}100000000; raise it, or use a smaller image"


def test_read_image_goes_by_its_own_limit_whatever_pillows_is(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.new("RGB", (20, 10)))
    for limit in (199, 150, 99, 1):  # Pillow warns above it, and raises above its double
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(path, "RGB", 200).shape == (10, 20, 3)
            check_image_size({"file_name": path, "width": 20, "height": 10}, np.zeros((10, 20, 3)))
            with pytest.raises(ValueError, match="20 x 10 = 200 pixels, INPUT.MAX_PIXELS is 199"):
                read_image(path, "RGB", 199)
        assert Image.MAX_IMAGE_PIXELS == limit  # for other users of Pillow


def test_read_image_knows_the_turned_size_above_pillows_limit(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    path = tmp_path / "a.jpg"
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    image = read_image(path, "RGB")
    with pytest.raises(ValueError, match="its EXIF orientation turns it"):
        check_image_size({"file_name": path, "width": 20, "height": 10}, image)


BOMB = zlib.compress(b"a" * 70_000_000)


@pytest.mark.parametrize(
    "content, message",
    [
        (make_png(4, 4, chunk(b"zTXt", b"a\0\0" + BOMB)), "cannot read image .*too large"),
        (make_png(4, 4, chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)), "cannot read image .*too large"),
        (make_png(4, 4, chunk(b"iCCP", b"a\0\0" + BOMB)), "cannot read image .*too large"),
        (make_png(0, 4), "is not an image that Pillow can read"),
        (make_png(4, 4), "cannot read image .*truncated"),
        (make_png(4, 4, pixels=b"no zlib"), "cannot read image .*broken data"),  # it was black
        (b"GIF89a\x05\x00\x05\x00\x00\x00\x00,", "is not an image that Pillow can read"),
        (b"II*\x00\xff\xff\xff\xff", "cannot read image |is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image that Pillow"),
    ],
)
def test_read_image_refuses_hostile_files_in_one_line(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path, "RGB")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_read_image_reads_the_first_of_several_frames(tmp_path, file_format):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / "a.img"
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:])
    array = read_image(path, "RGB")
    assert array.shape == (4, 6, 3) and array[0, 0, 0] > 200 > 60 > array[0, 0, 2]


def test_read_image_raises_nothing_else_for_damaged_files(tmp_path):
    rng, path = random.Random(0), tmp_path / "a.img"
    image = Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3))
    exif = Image.Exif()
    exif[274] = 6
    num_read = 0
    for file_format in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        image.save(path, file_format, exif=exif.tobytes())
        whole = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 5)):
                damaged[rng.randrange(len(whole))] = rng.randrange(256)
            path.write_bytes(damaged[: rng.choice([len(whole), rng.randrange(len(whole))])])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    num_read += read_image(path, "RGB").ndim == 3
            except ValueError as error:
                assert str(path) in str(error) and "\n" not in str(error)
    assert 20 < num_read < 260
