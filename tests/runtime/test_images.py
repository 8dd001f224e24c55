import numpy as np
import pytest
import torch
from PIL import Image

from queryinst_runtime.images import as_rgb, read_rgb

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0]


@pytest.mark.parametrize(
    "image, channels, expected",
    [
        (RGB, "RGB", RGB),
        (RGB, "BGR", RGB[:, :, ::-1]),
        (GRAY, "BGR", np.dstack([GRAY] * 3)),
        (torch.from_numpy(RGB.transpose(2, 0, 1).copy()), "RGB", RGB),
        (torch.from_numpy(RGB.transpose(2, 0, 1).copy()), "BGR", RGB[:, :, ::-1]),
        (Image.fromarray(RGB), "BGR", RGB),  # PIL says itself what its channels are
        (Image.fromarray(GRAY), "RGB", np.dstack([GRAY] * 3)),
        (Image.fromarray(RGB).convert("RGBA"), "RGB", RGB),
    ],
)
def test_as_rgb_takes_what_users_have(image, channels, expected):
    rgb = as_rgb(image, channels)
    assert rgb.dtype == np.uint8 and np.array_equal(rgb, expected)


@pytest.mark.parametrize("name", ["str", "path"])
def test_as_rgb_reads_files(tmp_path, name):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    assert np.array_equal(as_rgb(str(path) if name == "str" else path), RGB)


@pytest.mark.parametrize(
    "image, text",
    [
        (RGB / 255, "dtype float64, not uint8"),
        (RGB.astype(np.float32), "dtype float32, not uint8"),
        (np.full((4, 6, 3), np.nan), "dtype float64, not uint8"),
        (RGB.astype(np.int64), "dtype int64, not uint8"),
        (RGB.astype(np.uint16) * 257, "dtype uint16, not uint8"),
        (RGB > 128, "dtype bool, not uint8"),
        (RGB[:, :, :2], r"shape \(4, 6, 2\)"),
        (np.dstack([RGB, GRAY]), r"shape \(4, 6, 4\)"),
        (RGB[None], r"shape \(1, 4, 6, 3\)"),
        (RGB[:0], r"shape \(0, 6, 3\)"),
        (RGB.transpose(2, 0, 1), r"shape \(3, 4, 6\)"),
        (torch.from_numpy(RGB), r"shape \(4, 6, 3\), not \(3, H, W\)"),
        (torch.rand(3, 4, 6), "dtype float32, not uint8"),
        (torch.zeros(3, 4, 6, dtype=torch.bfloat16), "dtype bfloat16, not uint8"),
        (Image.fromarray(GRAY.astype(np.uint16)), "mode 'I;16'"),
        (Image.fromarray(GRAY.astype(np.float32)), "mode 'F'"),
        (Image.new("RGB", (0, 3)), "0 x 3 pixels"),
        (None, "type NoneType"),
        (3, "type int"),
        ({"image": RGB}, "type dict"),
    ],
)
def test_as_rgb_refuses_what_is_no_8_bit_image(image, text):
    with pytest.raises(ValueError, match=text):
        as_rgb(image)


def test_as_rgb_refuses_other_channels():
    with pytest.raises(ValueError, match="channels 'rgb'"):
        as_rgb(RGB, "rgb")


def test_read_rgb_turns_and_takes_the_high_byte(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(RGB, -1))
    Image.fromarray(GRAY.astype(np.uint16) * 256 + 255).save(tmp_path / "deep.png")
    assert np.array_equal(read_rgb(tmp_path / "deep.png"), np.dstack([GRAY] * 3))


def test_read_rgb_names_the_file(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        read_rgb(broken)
    Image.fromarray(RGB).save(broken)
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(ValueError, match="broken.png"):
        read_rgb(broken)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        read_rgb(tmp_path / "missing.png")
    Image.fromarray(RGB).save(broken)
    with pytest.raises(ValueError, match="6 x 4 = 24 pixels, more than 20"):
        read_rgb(broken, max_pixels=20)
