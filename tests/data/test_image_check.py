"""Many image files at once: each kind of fault has its kind, and the words of a training."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from queryinst.data import image_check
from queryinst.data.findings import Findings
from queryinst.data.image_check import KINDS, ImageEntry, check_image_file, check_image_files
from queryinst.data.images import check_image_size, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(path, pixels=PIXELS, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def cut(path, num_bytes):
    path.write_bytes(path.read_bytes()[:-num_bytes])
    return path


def with_late_exif(path):
    """A PNG whose EXIF tags follow its pixels, as the format allows."""
    content = save(path).read_bytes()
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    late = (
        struct.pack(">I", len(exif))
        + b"eXIf"
        + exif
        + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    )
    path.write_bytes(content[:-12] + late + content[-12:])
    return path


def make_faults(folder):
    """(path, width, height, kind) of files with one fault each, and of two without."""
    folder.mkdir()
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.png")
    deep = Image.fromarray(np.zeros((20, 30), np.float32))
    deep.save(folder / "deep.tif")
    wide = save(folder / "wide.png", np.zeros((30, 40, 3), np.uint8))
    return [
        (save(folder / "right.jpg"), 30, 20, ""),
        (save(folder / "turned.jpg", orientation=6), 20, 30, ""),
        (folder / "gone.png", 30, 20, "image-missing"),
        (folder / "empty.png", 30, 20, "image-empty"),
        (folder / "folder.jpg", 30, 20, "image-not-readable"),
        (folder / "pipe.png", 30, 20, "image-not-readable"),
        (folder / "text.jpg", 30, 20, "image-not-image"),
        (cut(save(folder / "cut.jpg"), 300), 30, 20, "image-broken"),
        (cut(save(folder / "cut.png"), 900), 30, 20, "image-broken"),
        (cut(save(folder / "cut.tif"), 900), 30, 20, "image-broken"),
        (cut(save(folder / "cut_lzw.tif", compression="tiff_lzw"), 900), 30, 20, "image-not-image"),
        (cut(save(folder / "cut.webp"), 100), 30, 20, "image-broken"),
        (cut(save(folder / "cut.bmp"), 100), 30, 20, "image-broken"),
        (cut(save(folder / "cut.gif"), 200), 30, 20, "image-broken"),
        (wide, 40, 30, "image-too-large"),
        (folder / "deep.tif", 30, 20, "image-32-bit"),
        (save(folder / "size.png"), 31, 20, "image-size"),
        (save(folder / "unturned.jpg", orientation=6), 30, 20, "image-turned"),
        (save(folder / "unturned.tif", orientation=8), 30, 20, "image-turned"),
        (with_late_exif(folder / "late.png"), 30, 20, "image-turned"),
    ]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return make_faults(tmp_path_factory.mktemp("faults") / "images")


def entries(faults):
    return [ImageEntry(str(path), w, h, path.name, path.name) for path, w, h, _ in faults]


def said_by_training(path, width, height):
    try:
        record = {"file_name": str(path), "width": width, "height": height}
        check_image_size(record, read_image(str(path), "RGB", 1000))
    except (OSError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("pixels", [False, True])
def test_check_image_file_finds_each_fault_in_the_words_of_a_training(faults, pixels):
    for entry, (path, width, height, kind) in zip(entries(faults), faults):
        facts = check_image_file(entry, pixels, max_pixels=1000)
        assert facts.problem == kind, (path, facts)
        if kind in ("image-missing", "image-not-readable"):
            assert str(path) in facts.message
        else:
            assert facts.message == said_by_training(path, width, height)
        assert bool(facts.digest) == (not kind)
        assert (facts.width, facts.height) == ((0, 0) if kind else (width, height))


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize(
    "orientation, sides, told",
    [
        (None, (30, 20), True),
        (1, (30, 20), True),
        (2, (30, 20), False),
        (3, (30, 20), False),
        (4, (30, 20), False),
        (4, (None, None), True),  # when the sizes are read, which are annotated then
        (6, (20, 30), True),
        (99, (30, 20), True),
    ],
)
def test_a_turn_that_no_size_tells_is_noted(tmp_path, orientation, sides, told, pixels):
    for suffix in ("jpg", "png", "tif"):
        path = save(tmp_path / f"a.{suffix}", orientation=orientation)
        facts = check_image_file(ImageEntry(str(path), *sides), pixels)
        turned = (20, 30) if orientation == 6 else (30, 20)
        assert (facts.problem, facts.width, facts.height) == ("", *turned)
        assert facts.note == (
            ""
            if told
            else f"image {path} has the EXIF orientation {orientation}, by which it is turned"
        )


def test_a_turned_square_is_noted_once_in_the_findings(tmp_path):
    square = save(tmp_path / "a.jpg", PIXELS[:, :20], orientation=6)
    plain = save(tmp_path / "b.jpg", PIXELS[:, :20])
    findings = Findings()
    entries = [ImageEntry(str(path), 20, 20, 7, path.name) for path in (square, plain)]
    given = {"pixels": False, "workers": 0, "findings": findings, "source": "train.json"}
    assert all(facts.digest for facts in check_image_files(entries, **given))
    (group,) = findings.groups("note")
    assert (group.kind.name, group.count, group.examples[0].image_id) == ("image-orientation", 1, 7)


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "tif", "webp", "bmp", "gif", "ppm", "tiff", "jp2"]
)
def test_check_image_file_takes_whole_files_of_any_format(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}")
    for pixels in (False, True):
        assert not check_image_file(ImageEntry(str(path), 30, 20), pixels).problem


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_check_image_file_decodes_no_whole_file_for_its_header(tmp_path, suffix, monkeypatch):
    path = save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert not check_image_file(ImageEntry(str(path), 30, 20), False).problem


@pytest.mark.parametrize("pixels", [False, True])
def test_check_image_files_are_the_same_in_processes(faults, pixels, monkeypatch):
    monkeypatch.setattr(image_check, "_LEAST_SHARE", {False: 1, True: 1})
    runs = []
    for workers in (0, 2):
        findings, done = Findings(), []
        facts = check_image_files(
            entries(faults),
            pixels=pixels,
            workers=workers,
            findings=findings,
            source="a.json",
            progress=done.append,
            max_pixels=1000,
        )
        runs.append((list(facts), list(findings.groups())))
        assert sum(done) == len(faults)
    assert runs[0] == runs[1]
    groups = {group.kind.name: group for group in runs[0][1]}
    expected = [kind for _, _, _, kind in faults if kind]
    assert {name: group.count for name, group in groups.items()} == {
        kind: expected.count(kind) for kind in expected
    }
    assert groups.keys() == {name for name, kind in KINDS.items() if kind.severity == "error"}
    first = groups["image-broken"].examples[0]
    assert (first.source, first.image_id, first.file_name) == ("a.json", "cut.jpg", "cut.jpg")


def test_check_image_files_leave_the_random_numbers_alone(faults):
    before = torch.random.get_rng_state()
    found = check_image_files(
        entries(faults), pixels=False, workers=0, findings=Findings(), source=""
    )
    assert len(list(found)) == len(faults)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_check_image_file_digests_equal_pixels_as_equal(tmp_path):
    other = PIXELS.copy()
    other[19, 29] ^= 1
    paths = [
        save(tmp_path / "a.png"),
        save(tmp_path / "b.bmp"),
        save(tmp_path / "c.png", other),
        save(tmp_path / "d.png", PIXELS.reshape(30, 20, 3)),
    ]
    a, b, c, d = (check_image_file(ImageEntry(str(path)), True).digest for path in paths)
    assert a == b and len({b, c, d}) == 3


def test_check_image_file_digests_equal_files_as_equal_by_their_headers(tmp_path):
    path = save(tmp_path / "a.jpg")
    copy = tmp_path / "b.jpg"
    copy.write_bytes(path.read_bytes())
    other = save(tmp_path / "c.jpg", PIXELS[::-1].copy())
    a, b, c = (check_image_file(ImageEntry(str(x)), False).digest for x in (path, copy, other))
    assert a == b != c
    assert image_check.digest_file(str(path)) == image_check.digest_file(str(copy))
    assert image_check.digest_file(str(path)) != image_check.digest_file(str(other))


def test_check_image_file_says_where_windows_wrote_the_name(tmp_path):
    save(tmp_path / "a.png")
    facts = check_image_file(ImageEntry(f"{tmp_path}\\a.png"), False)
    assert facts.problem == "image-missing" and facts.message.endswith(
        'a.png does not exist: its name has "\\" where "/" belongs'
    )
    assert check_image_file(ImageEntry("no\\a.png"), False).message.endswith("does not exist")
