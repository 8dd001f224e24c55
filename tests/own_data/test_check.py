"""`queryinst data check`: counts by hand, hostile names, and what is written where."""

import argparse
import html
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from queryinst.data import image_check
from queryinst.data.findings import Findings
from queryinst.data.image_check import ImageEntry
from queryinst.model_zoo import get_config
from queryinst.own_data import check_command
from queryinst.own_data.check import DEFAULT_CONFIG, check_data
from queryinst.own_data.check_json import as_json
from queryinst.own_data.check_text import printable, problems_text, statistics_text, verdict
from queryinst.own_data.equal_images import Seen, find_equal
from queryinst.own_data.sources import Split
from queryinst.own_data.statistics import Percentiles, TrainingScale

SIZE = 96, 64  # width, height
HOSTILE = "<script>alert(1)</script>\"'&\u202e $x^2$.png"


def save_image(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def box_object(number, image, category, side, **changes):
    """A square of `side` pixels at (8, 8)."""
    end = 8 + side
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "bbox": [8, 8, side, side],
        "area": side * side,
        "segmentation": [[8, 8, end, 8, end, end, 8, end]],
    } | changes


def write(folder, name, images, categories, annotations):
    """images: {id: file name}; categories: {id: name}."""
    content = {
        "images": [
            {"id": i, "file_name": n, "width": SIZE[0], "height": SIZE[1]}
            for i, n in images.items()
        ],
        "categories": [{"id": i, "name": n} for i, n in categories.items()],
        "annotations": annotations,
    }
    path = folder / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return Split(name, str(path), str(folder / name))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Three images to train on, one of them without objects, and one to validate on."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(3):
        save_image(folder / "train" / f"{number}.png", number)
    save_image(folder / "val" / "v.png", 9)
    categories = {3: "cup", 1: "dish"}
    objects = [
        box_object(1, 10, 3, 2),
        box_object(2, 10, 3, 8),
        box_object(3, 10, 1, 16),
        box_object(4, 11, 3, 32),
        box_object(5, 11, 1, 30, iscrowd=1),
    ]
    images = {10: "0.png", 11: "1.png", 12: "2.png"}
    train = write(folder, "train", images, categories, objects)
    val = write(folder, "val", {0: "v.png"}, categories, [box_object(1, 0, 3, 4)])
    return [train, val]


@pytest.fixture
def bad(tmp_path):
    """Each of what is wrong once, with names that are meant to break a page or a terminal."""
    for number in range(8):
        save_image(tmp_path / "train" / f"{number}.png", number)
    save_image(tmp_path / "train" / HOSTILE, 20)
    (tmp_path / "train" / "1.png").write_bytes((tmp_path / "train" / "1.png").read_bytes()[:900])
    save_image(tmp_path / "train" / "2.png", 2, SIZE[::-1])
    (tmp_path / "train" / "3.png").unlink()
    shutil.copy(tmp_path / "train" / "0.png", tmp_path / "train" / "4.png")
    (tmp_path / "val").mkdir()
    shutil.copy(tmp_path / "train" / "0.png", tmp_path / "val" / "copy.png")
    os.mkfifo(tmp_path / "train" / "pipe.png")
    names = {i: f"{i}.png" for i in range(8)}
    names |= {8: HOSTILE, 9: "line\nend \x1b[31m.png", 10: "pipe.png"}
    categories = {1: "<b>Cup</b> & $\\frac$", 2: "dish", 3: "Dish "}
    objects = [box_object(i + 1, i, 1 + i % 2, 20) for i in range(9)]
    objects[5]["segmentation"] = [[float("nan"), 1, 2, 3, 4, 5]]
    objects[6] |= {"id": "<i>id</i>", "iscrowd": None}
    objects[7]["bbox"] = [0, 0, 0, 0]
    train = write(tmp_path, "train", names, categories, objects)
    val = write(tmp_path, "val", {1: "copy.png"}, {1: categories[1]}, [box_object(1, 1, 1, 20)])
    return [train, val]


def arguments(data, **options):
    known = {"html": None, "json": None, "fix": None, "fast": False, "workers": 1}
    known |= {"no_progress": True, "overwrite": False}
    return argparse.Namespace(data=str(data), **(known | options))


def counts(result):
    return {group.kind.name: group.count for group in result.findings.groups()}


@pytest.mark.parametrize("fast", [False, True])
def test_check_data_counts_as_by_hand(good, fast):
    result = check_data(good, fast=fast, workers=1)
    assert counts(result) == {"category-not-held-out": 1}
    train, val = result.statistics
    assert (train.num_images, train.num_images_without_objects) == (3, 1)
    assert (train.num_objects, train.num_crowds) == (4, 1)
    assert train.thing_classes == ["dish", "cup"]  # by their ids
    assert train.objects_per_image.tolist() == [3, 1, 0]
    # Images of 64 x 96 are enlarged to a short side of 640: ten times.
    assert sorted(train.object_sizes.round().tolist()) == [20, 80, 160, 320]
    assert train.size_counts == (1, 1, 2)
    dish, cup = train.classes()
    assert (dish.num_objects, dish.num_crowds, dish.num_images) == (1, 1, 1)
    assert (cup.num_objects, cup.num_crowds, cup.num_images) == (3, 0, 2)
    assert cup.median_size == pytest.approx(80)
    assert train.num_images_over(2) == 1 and train.num_images_over(3) == 0
    assert train.common_image_sizes(5) == [(96, 64, 3)]
    assert (val.num_images, val.num_objects) == (1, 1)
    assert verdict(result) == "ready to train: 1 note"


def test_check_data_takes_a_configuration(good):
    cfg = get_config(DEFAULT_CONFIG)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (320,), 240
    cfg.MODEL.QUERYINST.NUM_QUERIES, cfg.TEST.DETECTIONS_PER_IMAGE = 2, 1
    cfg.INPUT.MAX_PIXELS = 96 * 64 - 1
    result = check_data(good, fast=True, workers=1, cfg=cfg)
    assert counts(result)["image-too-large"] == 4
    assert not result.statistics  # of no image
    cfg.INPUT.MAX_PIXELS += 1
    result = check_data(good, fast=True, workers=1, cfg=cfg)
    assert counts(result)["objects-over-queries"] == 1
    assert counts(result)["objects-over-detections"] == 1
    assert result.statistics[0].object_sizes.max() == pytest.approx(80)  # 240 / 96 = 2.5 times


@pytest.mark.parametrize("fast", [False, True])
def test_check_data_finds_each_problem(bad, fast):
    result = check_data(bad, fast=fast, workers=1)
    assert counts(result) == {
        "file-name": 1,
        "polygon-numbers": 1,
        "crowd-flag": 1,
        "image-missing": 1,
        "image-not-readable": 1,
        "image-broken": 1,
        "image-size": 1,
        "images-in-parts": 1,
        "categories-differ": 2,
        "box-empty": 1,
        "images-equal": 1,
        "categories-alike": 1,
        "category-without-objects": 1,
        "annotation-id-kind": 1,
    }
    first = {group.kind.name: group.examples[0] for group in result.findings.groups()}
    assert first["image-broken"].file_name == "1.png"
    assert first["image-broken"].image_id == 1
    assert "4.png equals" in first["images-equal"].message
    assert first["images-in-parts"].source == bad[1].json_file
    assert "val has no category 'dish', which train has" in first["categories-differ"].message
    assert verdict(result).startswith("not ready: 10 errors of 9 kinds, 4 warnings of 4 kinds")
    text = problems_text(result) + statistics_text(result)
    assert all(line.isprintable() for line in text.splitlines())
    assert first["crowd-flag"].message in text


def test_check_data_is_the_same_in_processes(bad, monkeypatch):
    monkeypatch.setattr(image_check, "_LEAST_SHARE", {False: 1, True: 1})
    results = [check_data(bad, workers=workers) for workers in (1, 2)]
    assert as_json(results[0]) == as_json(results[1])


def test_check_data_goes_on_after_a_file_that_is_no_json(good, tmp_path):
    broken = tmp_path / "val.json"
    broken.write_text("{")
    result = check_data([good[0], Split("val", str(broken), str(tmp_path))], workers=1)
    assert counts(result) == {"json": 1}
    assert [part.name for part in result.statistics] == ["train"]


@pytest.mark.parametrize("name", [None, 3, {}, "", "x" * 5000, "two\nlines", "\ud800"])
def test_run_takes_names_of_any_kind(good, name, tmp_path):
    content = json.loads(open(good[1].json_file).read())
    content["categories"][0]["name"] = name
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    out = tmp_path / "page.html"
    data = f"{path}:{good[1].image_root}"
    assert check_command.run(arguments(data, html=str(out), fast=True)) == 1
    assert "category-name" in out.read_text()


def test_check_data_ends_at_once_with_its_processes(good, monkeypatch):
    monkeypatch.setattr(image_check, "_LEAST_SHARE", {False: 1, True: 1})

    def progress(what, total):
        return interrupt

    def interrupt(count):
        raise KeyboardInterrupt

    before, start = children(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        check_data(good, workers=2, progress=progress)
    assert children() == before and time.monotonic() - start < 5


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())


def test_equal_images_are_told_by_their_bytes_where_digests_are_of_ends(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c", "link")]
    for path, content in zip(paths, (b"one", b"two", b"one")):
        path.write_bytes(content)
    paths[3].symlink_to(paths[0])
    seen = [Seen(0, "s", ImageEntry(str(path)), b"same", 1) for path in paths]
    findings = Findings()
    found = find_equal(seen, findings, is_exact=False)
    assert found.within == {0: 1} and not found.across  # c equals a; a link is the same file
    (group,) = findings.groups()
    assert "c equals" in group.examples[0].message
    assert find_equal(seen, Findings(), is_exact=True).within == {0: 2}


@pytest.mark.parametrize(
    "num_objects, kind", [(1, "images-in-parts"), (0, "images-in-parts-empty")]
)
def test_equal_images_in_two_parts_are_an_error_if_they_have_objects(tmp_path, num_objects, kind):
    seen = [
        Seen(part, "s", ImageEntry(str(tmp_path / str(part))), b"same", part * num_objects)
        for part in (0, 1)
    ]
    findings = Findings()
    assert find_equal(seen, findings, is_exact=True).across == {(1, 0): 1}
    assert [group.kind.name for group in findings.groups()] == [kind]


def test_an_image_of_several_parts_is_counted_in_each_and_named_once(tmp_path):
    """The first image in all parts, twice in the second; the second in the last two."""
    digests = ["a", "a", "a", "b", "a", "b", "c"]
    parts = [0, 1, 1, 1, 2, 2, 2]
    seen = [
        Seen(part, "s", ImageEntry(str(tmp_path / f"{i}.png")), digest.encode(), 1)
        for i, (part, digest) in enumerate(zip(parts, digests))
    ]
    findings = Findings()
    found = find_equal(seen, findings, is_exact=True)
    assert found.shared == {0: 1, 1: 3, 2: 2} and found.within == {1: 1}
    assert found.across == {(1, 0): 1, (2, 0): 1, (2, 1): 2}
    group = next(findings.groups("error"))
    names = [re.findall(r"(\d)\.png", x.message) for x in group.examples]
    assert names == [["1", "0"], ["4", "0"], ["5", "3"]] and group.count == 3


def test_percentiles_are_values_that_occur():
    assert Percentiles.of(np.arange(1, 101)) == (5, 50, 95, 100)
    assert Percentiles.of(np.array([])) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "size, factor", [((100, 50), 8), ((50, 100), 8), ((1000, 100), 1), ((10, 10), 40)]
)
def test_training_scale_enlarges_as_detectron2(size, factor):
    scale = TrainingScale(400, 1000, 1, 1)
    assert scale.factors(np.array([size])).tolist() == [factor]
    assert scale._replace(short_side=0).factors(np.array([size])).tolist() == [1]


def test_printable_keeps_a_line_a_line():
    assert printable("a\nb\x1b[1m\udc80\u202e é") == "a\\nb\\x1b[1m\\udc80\\u202e é"
    assert len(printable("x" * 10_000)) < 1000


class Page(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_run_writes_a_page_that_nothing_breaks(bad, tmp_path, capsys):
    page_path = tmp_path / "new" / "page.html"
    status = check_command.run(arguments(tmp_path, html=str(page_path)))
    assert status == 1
    text = page_path.read_text()
    page = Page(text)
    assert not {"script", "b", "i", "link", "iframe"} & set(page.tags)
    assert page.tags.count("svg") == 3
    # Of each kind that has an image, and eight and one as a sample.
    kinds = {address[1:] for address in page.addresses if re.fullmatch("#[a-z-]+", address)}
    assert {"image-broken", "crowd-flag", "images-in-parts"} <= kinds
    pictures = [address for address in page.addresses if address.startswith("data:image/jpeg;")]
    assert len(pictures) > 15
    assert all(re.match("#|data:image/(jpeg|png);base64,", address) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert html.escape("<b>Cup</b> & $\\frac$") in text
    assert any("<script>alert(1)</script>" in part for part in page.texts)
    assert "\x1b" not in text and "\u202e" not in text
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and printed.strip().splitlines()[-1].startswith("not ready: ")


def test_run_writes_json_of_the_public_form(bad, tmp_path, capsys):
    path = tmp_path / "check.json"
    assert check_command.run(arguments(tmp_path, json=str(path), fast=True)) == 1
    content = json.loads(path.read_text())
    assert list(content) == ["problems", "statistics"]
    for problem in content["problems"]:
        assert {"kind", "severity", "count", "examples", "advice"} <= problem.keys()
        assert problem["severity"] in ("error", "warning", "note")
        for example in problem["examples"]:
            assert {"file", "annotation_id", "image_id", "value"} <= example.keys()
    by_kind = {problem["kind"]: problem for problem in content["problems"]}
    assert by_kind["crowd-flag"]["examples"][0]["annotation_id"] == "<i>id</i>"
    assert by_kind["crowd-flag"]["examples"][0]["file"] == "6.png"
    train, val = content["statistics"]["splits"]
    assert (train["name"], train["num_images"], val["num_objects"]) == ("train", 10, 1)
    assert content["statistics"]["equal_images"]["across"] == [
        {"split": "val", "other": "train", "count": 1}
    ]
    # Written once more over itself, but over nothing else.
    assert check_command.run(arguments(tmp_path, json=str(path), fast=True)) == 1
    capsys.readouterr()
    path.write_text('{"images": []}')
    assert check_command.run(arguments(tmp_path, json=str(path), fast=True)) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert path.read_text() == '{"images": []}'


@pytest.mark.parametrize(
    "options, message",
    [
        ({"json": ""}, "--json '' is no path"),
        ({"json": "train"}, "--json .*train is a folder"),
        ({"html": "annotations/train.json/a.html"}, "train.json is not a folder"),
        ({"json": "annotations/train.json"}, "exists, and is of something else"),
        ({"json": "annotations/train.json", "overwrite": True}, "is the annotation file"),
        ({"json": "a.json", "html": "./a.json"}, "--json and --html are the same file"),
        ({"fix": "annotations/train.json"}, "is a file; name a folder for 2 files"),
        ({"fix": "annotations", "overwrite": True}, "is the annotation file that is read"),
        ({"fix": "annotations"}, "is the annotation file that is read"),
    ],
)
def test_run_refuses_outputs_before_the_long_work(
    good, options, message, capsys, monkeypatch, tmp_path
):
    shutil.copytree(os.path.dirname(good[0].image_root), tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(check_command, "check_data", lambda *a, **k: pytest.fail("long work"))
    paths = {k: str(tmp_path / v) if v and v is not True else v for k, v in options.items()}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert check_command.run(arguments(tmp_path, **paths)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("queryinst data check: error: ") and re.search(message, line)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_run_ends_well_without_errors(good, capsys):
    folder = os.path.dirname(good[0].image_root)
    assert check_command.run(arguments(folder)) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "ready to train: 1 note"


def test_run_writes_mended_copies_and_counts_the_mends(bad, tmp_path, capsys):
    before = [open(split.json_file).read() for split in bad]
    folder = tmp_path / "new" / "fixed"
    assert check_command.run(arguments(tmp_path, fix=str(folder), fast=True)) == 1
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("mended copy")]
    assert len(lines) == 2 and "crowd-flags 1" in lines[0]
    assert lines[1].endswith("val.json: nothing to mend without a guess")
    assert [open(split.json_file).read() for split in bad] == before
    mended = json.loads((folder / "train.json").read_text())
    assert {x["iscrowd"] for x in mended["annotations"]} == {0}
    assert check_command.run(arguments(tmp_path, fix=str(folder), fast=True)) == 2  # it exists


def test_run_writes_one_mended_copy_as_a_file(bad, tmp_path, capsys):
    one, target = f"{bad[0].json_file}:{bad[0].image_root}", tmp_path / "fixed.json"
    assert check_command.run(arguments(one, fix=str(target), fast=True)) == 1
    assert json.loads(target.read_text())["annotations"][7]["bbox"] == [8, 8, 20, 20]
    assert "mended copy" in capsys.readouterr().out
