"""A mended copy has none of the problems that need no guess, and the same masks."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from dev.data_mutations.valid_set import HEIGHT, WIDTH, make_content
from queryinst.data.coco_check import check_coco
from queryinst.data.findings import Findings
from queryinst.data.fixing import fix_coco
from queryinst.data.mask_bounds import to_rle
from queryinst.data.polygon_clipping import clip_polygons

NAN = float("nan")


def kinds_in(path):
    findings = Findings()
    check_coco(str(path), "", findings=findings)
    return {group.kind.name: group.count for group in findings.groups()}


def masks_in(content):
    return [
        mask_util.decode(to_rle(x["segmentation"], HEIGHT, WIDTH)) for x in content["annotations"]
    ]


def every(key, convert, *, of="annotations", half=False):
    def change(content):
        for number, item in enumerate(content[of]):
            if not (half and number % 2):
                item[key] = convert(item[key])

    return change


def together(*changes):
    def change(content):
        for each in changes:
            each(content)

    return change


def without(key):
    return lambda content: [item.pop(key) for item in content["annotations"]]


def widened(content):
    """Rectangles reach out of the image on the right, by another slope on the left."""
    for item in content["annotations"][1::2]:
        (polygon,) = item["segmentation"]
        polygon[2], polygon[4] = 150.5, 130.25
        mask = mask_util.decode(to_rle([polygon], HEIGHT, WIDTH))
        item["bbox"] = [polygon[0], polygon[1], 150.5 - polygon[0], polygon[5] - polygon[1]]
        item["area"] = int(mask.sum())


def as_texts(numbers):
    return [str(number) for number in numbers]


FIXED = [
    (every("iscrowd", lambda _: None), {"crowd-flag"}, {"crowd-flags": 12}),
    (every("iscrowd", lambda _: "", half=True), {"crowd-flag"}, {"crowd-flags": 6}),
    (every("iscrowd", lambda _: 0.0), {"crowd-flag"}, {"crowd-flags": 12}),
    (every("iscrowd", lambda _: "false"), {"crowd-flag"}, {"crowd-flags": 12}),
    (every("iscrowd", lambda _: " 0.0"), {"crowd-flag"}, {"crowd-flags": 12}),
    (without("iscrowd"), {"key-missing"}, {"crowd-flags": 12}),
    (every("width", str, of="images"), {"image-sides"}, {"integers": 6}),
    (every("width", float, of="images", half=True), {"image-sides"}, {"integers": 3}),
    (every("bbox", as_texts), {"box"}, {"numbers": 12}),
    (every("area", str), {"area"}, {"numbers": 12}),
    (every("bbox", lambda _: None), {"box"}, {"boxes": 12}),
    (every("bbox", lambda _: [0, 0, 0, 0]), {"nothing-to-train", "box-empty"}, {"boxes": 12}),
    (every("bbox", lambda _: [0, 0, 1e-9, 1]), {"nothing-to-train", "box-empty"}, {"boxes": 12}),
    (every("bbox", lambda b: [b[0], b[1], -b[2], b[3]]), {"box-negative"}, {"boxes": 12}),
    (every("bbox", lambda b: [*b[:3], NAN]), {"box"}, {"boxes": 12}),
    (without("bbox"), {"key-missing"}, {"boxes": 12}),
    (every("area", lambda _: NAN), {"area"}, {"areas": 12}),
    (every("area", lambda _: -1), {"area"}, {"areas": 12}),
    (every("area", lambda _: 5), {"area-differs"}, {"areas": 12}),
    (without("area"), {"key-missing"}, {"areas": 12}),
    (every("id", lambda x: x - 1), {"annotation-id-kind"}, {"annotation-ids": 12}),
    (every("id", float), {"annotation-id-kind"}, {"annotation-ids": 12}),
    (every("id", lambda _: 7), {"annotation-id-twice"}, {"annotation-ids": 11}),
    (every("id", lambda x: f"{x}-uuid"), {"annotation-id-kind"}, {"annotation-ids": 12}),
    (every("id", lambda _: None), {"annotation-id"}, {"annotation-ids": 12}),
    (without("id"), {"key-missing"}, {"annotation-ids": 12}),
    (
        together(every("id", lambda x: [x], of="images"), every("image_id", lambda x: [x])),
        {"image-id"},
        {"image-ids": 6},
    ),
    (
        every("id", str, of="images", half=True),
        {"image-id-mixed", "image-id-type"},
        {"image-ids": 6},
    ),
    (every("image_id", str), {"image-id-type"}, {"references": 12}),
    (every("image_id", float, half=True), set(), {}),
    (
        every("id", str, of="categories"),
        {"category-id", "category-id-type"},
        {"category-ids": 3},
    ),
    (
        together(every("id", str, of="categories"), every("category_id", str)),
        {"category-id"},
        {"category-ids": 3},
    ),
    (every("category_id", str), {"category-id-type"}, {"references": 12}),
    (every("image_id", lambda x: f"{x - 11}.png"), {"image-id-type"}, {"references": 12}),
    (
        every("category_id", lambda x: ("round", "square", "corner")[x - 1]),
        {"category-id-type"},
        {"references": 12},
    ),
    (every("category_id", float), {"category-id"}, {"references": 12}),
    (every("category_id", "{:.1f}".format), {"category-id-type"}, {"references": 12}),
    (every("image_id", "{:.1f}".format), {"image-id-type"}, {"references": 12}),
    (
        together(
            every("id", lambda x: x - 2, of="categories"), every("category_id", lambda x: x - 2)
        ),
        {"category-id"},
        {"category-ids": 3},
    ),
    (widened, {"box-outside", "polygon-outside"}, {"boxes-clipped": 6, "polygons-clipped": 6}),
]


@pytest.mark.parametrize("change, expected, mends", FIXED)
def test_fix_coco_leaves_nothing_of_what_it_mends(tmp_path, change, expected, mends):
    content = make_content()
    change(content)
    given, mended = tmp_path / "given.json", tmp_path / "mended.json"
    given.write_text(json.dumps(content))
    before = given.read_bytes()
    assert expected <= set(kinds_in(given))
    assert fix_coco(str(given), str(mended)) == mends
    assert kinds_in(mended) == {} and given.read_bytes() == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["given.json", "mended.json"]
    result = json.loads(mended.read_text())
    np.testing.assert_array_equal(masks_in(result), masks_in(content))
    names = {x["id"]: x["name"] for x in result["categories"]}
    files = {x["id"]: x["file_name"] for x in result["images"]}
    for item, truth in zip(result["annotations"], make_content()["annotations"], strict=True):
        assert names[item["category_id"]] == ("round", "square", "corner")[truth["category_id"] - 1]
        assert files[item["image_id"]] == f"{truth['image_id'] - 11}.png"
        if change is not widened:
            assert item["bbox"] == truth["bbox"] and item["area"] == truth["area"]


def test_fix_coco_puts_slashes_where_they_lead_to_an_image(tmp_path):
    content = make_content()
    names = [f"a\\{i}.png" for i, _ in enumerate(content["images"])]
    for image, name in zip(content["images"], names):
        image["file_name"] = name
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").touch()
    given, mended = tmp_path / "given.json", tmp_path / "mended.json"
    given.write_text(json.dumps(content))
    assert fix_coco(str(given), str(mended), str(tmp_path)) == {"file-names": 1}
    found = [image["file_name"] for image in json.loads(mended.read_text())["images"]]
    assert found == ["a/0.png", *names[1:]]


def test_fix_coco_removes_a_byte_order_mark(tmp_path):
    given, mended = tmp_path / "given.json", tmp_path / "mended.json"
    given.write_text(json.dumps(make_content()), encoding="utf-8-sig")
    assert kinds_in(given) == {"json-byte-order-mark": 1}
    assert fix_coco(str(given), str(mended)) == {"byte-order-mark": 1}
    assert kinds_in(mended) == {} and json.loads(mended.read_text()) == make_content()


@pytest.mark.parametrize(
    "change, kind",
    [
        (every("bbox", lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), "box-xyxy"),
        (every("bbox", lambda b: [b[1], b[0], b[3], b[2]]), "axes-swapped"),
        (
            every("segmentation", lambda s: {**s, "counts": [9]} if "counts" in s else s),
            "rle-counts",
        ),
        (every("category_id", lambda _: 9), "category-id-unknown"),
        (every("bbox", lambda _: [200, 200, 5, 5]), "box-nowhere"),
        (every("image_id", lambda x: x + 50, half=True), "image-id-unknown"),
        (every("iscrowd", lambda _: 2), "crowd-flag"),
        (every("id", lambda _: 11, of="images"), "image-id-twice"),
    ],
)
def test_fix_coco_does_not_guess(tmp_path, change, kind):
    content = make_content()
    change(content)
    given, mended = tmp_path / "given.json", tmp_path / "mended.json"
    given.write_text(json.dumps(content))
    assert fix_coco(str(given), str(mended)) == {}
    assert json.loads(mended.read_text()) == content
    assert kind in kinds_in(mended)


def test_fix_coco_never_writes_the_file_itself(tmp_path):
    given, link = tmp_path / "given.json", tmp_path / "link.json"
    given.write_text(json.dumps(make_content()))
    link.symlink_to(given)
    for out in (given, link, tmp_path / "." / "given.json"):
        with pytest.raises(ValueError, match="is the file to mend itself"):
            fix_coco(str(given), str(out))
    assert json.loads(given.read_text()) == make_content()


@pytest.mark.parametrize("text", ["[]", "{", '{"images": 3}', '{"images": [1], "categories": []}'])
def test_fix_coco_refuses_what_is_no_coco(tmp_path, text):
    (tmp_path / "given.json").write_text(text)
    with pytest.raises(ValueError, match="given.json"):
        fix_coco(str(tmp_path / "given.json"), str(tmp_path / "mended.json"))
    assert not (tmp_path / "mended.json").exists()


def test_clip_polygons_keeps_what_is_inside():
    square = np.array([-10.0, -10, 30, -10, 30, 20, -10, 20])
    (clipped,) = clip_polygons([square], 15, 25)
    assert {tuple(p) for p in clipped.reshape(-1, 2)} == {(0, 0), (25, 0), (25, 15), (0, 15)}
    assert clip_polygons([square + 100], 15, 25) == []
    inside = np.array([1.0, 2, 9, 2, 4, 11])
    np.testing.assert_array_equal(clip_polygons([inside], 15, 25), [inside])
