"""One fault at a time in a valid set: each is found, with its kind, place, value and type."""

import json
import logging

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode

from dev.data_mutations.valid_set import HEIGHT, WIDTH, make_content, masks_of, write_images
from queryinst.config import add_queryinst_config
from queryinst.data.checks import check_datasets
from queryinst.data.coco_check import check_coco
from queryinst.data.dict_checks import check_dicts
from queryinst.data.findings import Findings
from queryinst.data.set_checks import Use

NAN, INF = float("nan"), float("inf")
RLE, POLYGON = 0, 1  # which of the first image's annotations
TEXT_COUNTS = make_content()["annotations"][RLE]["segmentation"]["counts"]


def find(tmp_path, content, name="set.json", **options):
    """The findings by kind: (severity, count, first finding)."""
    path = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode())
    findings = Findings()
    check_coco(str(path), str(tmp_path), findings=findings, **options)
    groups = findings.groups()
    return {g.kind.name: (g.kind.severity, g.count, g.examples[0]) for g in groups}


def each(key, convert):
    """A change of all annotations."""

    def change(content):
        for annotation in content["annotations"]:
            annotation[key] = convert(annotation[key])

    return change


def of(number, **values):
    return lambda content: content["annotations"][number].update(values)


def image(**values):
    return lambda content: content["images"][0].update(values)


def category(**values):
    return lambda content: content["categories"][0].update(values)


def mask(**values):
    return lambda content: content["annotations"][RLE]["segmentation"].update(values)


def polygon(place, value):
    def change(content):
        content["annotations"][POLYGON]["segmentation"][0][place] = value

    return change


def polygons(*values):
    return of(POLYGON, segmentation=list(values))


def as_corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def swapped_polygons(content):
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            points = np.reshape(annotation["segmentation"], (-1, 2))
            annotation["segmentation"] = [points[:, ::-1].ravel().tolist()]


def scaled_polygons(content):
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], list):
            points = np.reshape(annotation["segmentation"], (-1, 2)) / [WIDTH, HEIGHT]
            annotation["segmentation"] = [points.ravel().tolist()]


def row_order(content):
    for number, annotation in enumerate(content["annotations"]):
        flat = masks_of(number // 2)[number % 2].ravel("C")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]).astype(int)))
        counts = np.diff([0, *edges.tolist(), HEIGHT * WIDTH]).tolist()
        annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}


def large_in_row_order(content):
    """As long as nearly all of the image, so that it lies about right in either order."""
    counts = [4 * WIDTH + 6, *[84, WIDTH - 84] * 55, 84, 6 + 4 * WIDTH]
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    content["annotations"][RLE].update(bbox=[6, 4, 84, 56], area=84 * 56, segmentation=rle)


def everything_swapped(content):
    swapped_polygons(content)
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [y, x, height, width]
    content["annotations"] = content["annotations"][1::2]


ERRORS = [
    # 1: RLE
    (mask(counts=TEXT_COUNTS[:-3]), "rle-counts", "annotation 1 of image 0.png"),
    (mask(counts=TEXT_COUNTS[:-1]), "rle-counts", "'counts'"),
    (mask(counts=TEXT_COUNTS + "1"), "rle-counts", "'counts'"),
    (mask(counts=f"b'{TEXT_COUNTS}'"), "rle-counts", "characters that no RLE text has"),
    (mask(counts=[10, -5, 6139]), "rle-counts", "not -5"),
    (mask(counts=["6144"]), "rle-counts", "must be integers"),
    (mask(counts=[6143]), "rle-counts", "add up to 6143 pixels"),
    (mask(counts=None), "rle-counts", "None (null)"),
    (mask(size=[64.0, 96.0]), "rle-size", "[64.0, 96.0]"),
    (mask(size=[96, 64]), "rle-size", "[height, width] [64, 96]"),
    (mask(size=["64", "96"]), "rle-size", "['64', '96']"),
    # 2: polygons
    (polygon(0, None), "polygon-numbers", "not None (null)"),
    (polygon(3, NAN), "polygon-numbers", "not nan (float)"),
    (polygon(5, INF), "polygon-numbers", "not inf (float)"),
    (polygon(2, 2e8), "polygon-numbers", "not 200000000.0 (float)"),
    (polygon(2, -3e9), "polygon-numbers", "not -3000000000.0 (float)"),
    (polygon(1, "12"), "polygon-numbers", "annotation 2 of image 0.png has the polygon"),
    (polygon(1, "12"), "polygon-numbers", "not '12' (str)"),
    (polygons([1, 2, 3, 4]), "polygon-none", "hold [4] numbers"),
    (polygons([1, 2, 30, 4, 9]), "polygon-none", "hold [5] numbers"),
    (polygons([]), "polygon-none", "hold [0] numbers"),
    (polygons([[1, 2], [30, 4], [9, 40]]), "polygon-numbers", "not [1, 2] (list)"),
    (polygons(), "mask-missing", "annotation 2 of image 0.png has no mask"),
    (of(POLYGON, segmentation=None), "mask-missing", "has no mask"),
    (of(POLYGON, segmentation=[1, 2, 30, 4, 9, 40]), "mask-type", "has 1 in its 'segmentation'"),
    (of(POLYGON, segmentation="1 2 3"), "mask-type", "of type str"),
    # 3 and 4: ids and sizes
    (of(POLYGON, id=1), "annotation-id-twice", "the id 1 occurs twice in 'annotations'"),
    (of(POLYGON, id=None), "annotation-id", "None (null), which must be an integer or text"),
    (of(POLYGON, id=[2]), "annotation-id", "[2] (list)"),
    (each("id", lambda _: 5), "annotation-id-twice", "the id 5 occurs twice"),
    (
        lambda c: c["annotations"][3].pop("id"),
        "key-missing",
        "annotations[3] (id None) has no 'id'",
    ),
    (image(id=12), "image-id-twice", "the id 12 occurs twice in 'images'"),
    (image(id="11"), "image-id-mixed", "12 (int), '11' (str)"),
    (image(id=None), "image-id", "images[0] has the id None (null)"),
    (
        each("image_id", str),
        "image-id-type",
        "annotation 1 has image_id '11' (str), but 'images' has 11 (int)",
    ),
    (of(POLYGON, image_id="11"), "image-id-type", "annotation 2 has image_id '11' (str)"),
    (of(POLYGON, image_id="0.png"), "image-id-type", "'0.png' (str), but 'images' has 11 (int)"),
    (of(POLYGON, category_id="square"), "category-id-type", "'square' (str), but 'categories' has"),
    (of(POLYGON, image_id=None), "image-id", "the image_id None (null)"),
    (
        of(POLYGON, category_id="2"),
        "category-id-type",
        "annotation 2 has category_id '2' (str), but 'categories' has 2 (int)",
    ),
    (of(POLYGON, category_id=2.0), "category-id", "the category_id 2.0 (float)"),
    (
        of(POLYGON, category_id=0),
        "category-id-unknown",
        "category_id 0 (int), which is not in 'categories'",
    ),
    (category(id="1"), "category-id", "categories[0] has the id '1' (str)"),
    (category(id="1"), "category-id-type", "category_id 1 (int), but 'categories' has '1' (str)"),
    (category(id=-1), "category-id", "-1 (int), which must be an integer of at least 0"),
    (category(id=2**63), "category-id", "9223372036854775808 (int)"),
    (category(id=2**53), "category-id", "9007199254740992 (int), which must be an integer of at"),
    (category(id=2), "category-id-twice", "the id 2 occurs twice in 'categories'"),
    (image(width="96"), "image-sides", "image 11 has the 'height' 64 (int) and 'width' '96' (str)"),
    (image(width=96.0), "image-sides", "'width' 96.0 (float)"),
    (image(height=None), "image-sides", "'height' None (null)"),
    (image(height=0), "image-sides", "'height' 0 (int)"),
    (image(file_name=7), "file-name", "'file_name' 7 (int)"),
    (
        of(POLYGON, bbox=["54", 6, 30, 20]),
        "box",
        "annotation 2 of image 0.png has the 'bbox' ['54', 6, 30, 20]",
    ),
    (of(POLYGON, bbox=[54, 6, 30]), "box", "four finite numbers"),
    (of(POLYGON, bbox=[54, 6, NAN, 20]), "box", "[54, 6, nan, 20]"),
    (of(POLYGON, bbox=None), "box", "'bbox' None"),
    # 5: crowds
    *(
        (
            of(POLYGON, iscrowd=value),
            "crowd-flag",
            f"annotation 2 of image 0.png has the 'iscrowd' {said}",
        )
        for value, said in [
            *((None, "None (null)"), ("", "'' (str)"), ("0", "'0' (str)"), ("1", "'1' (str)")),
            *((0.0, "0.0 (float)"), (1.0, "1.0 (float)"), (2, "2 (int)"), ([], "[] (list)")),
        ]
    ),
    # 7: boxes
    (of(POLYGON, bbox=[84, 26, -30, -20]), "box-negative", "[84, 26, -30, -20]"),
    (
        each("bbox", lambda _: [0, 0, 0, 0]),
        "nothing-to-train",
        "(12 without box or mask in the image)",
    ),
    (each("bbox", lambda _: [200, 200, 5, 5]), "nothing-to-train", "(12 without"),
    (
        each("iscrowd", lambda _: 1),
        "nothing-to-train",
        "has 6 images, but none with an instance to train on (12 crowds)",
    ),
    (
        each("image_id", lambda x: x + 100),
        "nothing-to-train",
        "(12 of images that the file does not have)",
    ),
    (lambda c: c["annotations"].clear(), "nothing-to-train", "(no annotations)"),
    # 9 and 11: names and areas
    (category(name=None), "category-name", "category 1 has the name None (null)"),
    (category(name=3), "category-name", "category 1 has the name 3 (int)"),
    (
        category(name="square"),
        "category-name-twice",
        "categories 1 and 2 have the same name 'square'",
    ),
    (of(POLYGON, area=NAN), "area", "annotation 2 of image 0.png has the 'area' nan (float)"),
    (of(POLYGON, area=-600), "area", "'area' -600 (int)"),
    (of(POLYGON, area="600"), "area", "'area' '600' (str)"),
    (of(POLYGON, area=None), "area", "'area' None (null)"),
    (
        lambda c: c["annotations"][1].pop("iscrowd"),
        "key-missing",
        "annotations[1] (id 2) has no 'iscrowd'",
    ),
    (of(POLYGON, ignore=1), "ignore", "annotation 2 has 'ignore' 1"),
]

WARNINGS = [
    # 2: polygons beside others, and outside
    (
        lambda c: c["annotations"][1]["segmentation"].append([1, 2, 3, 4]),
        "polygon-points",
        1,
        "of [4] numbers",
    ),
    (
        lambda c: c["annotations"][1]["segmentation"].append([1, 2, 3]),
        "polygon-points",
        1,
        "of [3] numbers",
    ),
    (
        polygons([60, 70, 90, 70, 90, 90]),
        "mask-empty",
        1,
        "annotation 2 of image 0.png has a mask without",
    ),
    (mask(counts=[6144]), "mask-empty", 1, "annotation 1 of image 0.png"),
    (polygons([60, 10, 90, 10, 60, 10]), "box-differs", 1, "and a mask in [60, 10, 30, 0]"),
    (
        of(POLYGON, bbox=[54, 6, 42, 20], area=840, segmentation=[[54, 6, 98, 6, 98, 26, 54, 26]]),
        "polygon-outside",
        1,
        "a mask in [54, 6, 44, 20]",
    ),
    # 7: boxes without an area, and outside
    (
        of(POLYGON, bbox=[54, 6, 0, 20]),
        "box-empty",
        1,
        "annotation 2 of image 0.png has the 'bbox' [54.0, 6.0, 0.0, 20.0]",
    ),
    (of(RLE, bbox=[9, 26, 0, 0]), "box-empty", 1, "annotation 1"),
    (
        of(POLYGON, bbox=[96, 64, 5, 5]),
        "box-nowhere",
        1,
        "annotation 2 of image 0.png has the 'bbox' [96, 64, 5, 5], and a mask in [54, 6, 30, 20]",
    ),
    # 8: contradictions
    (
        each("bbox", as_corners),
        "box-xyxy",
        12,
        "annotation 1 of image 0.png has the 'bbox' [11, 26, 29, 54], and a mask in [11, 26",
    ),
    (
        each("bbox", lambda b: [b[0] / 96, b[1] / 64, b[2] / 96, b[3] / 64]),
        "box-normalized",
        12,
        "[0.114583, 0.40625, 0.1875, 0.4375]",
    ),
    (
        each("bbox", lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, *b[2:]]),
        "box-center",
        12,
        "[20, 40, 18, 28]",
    ),
    (each("bbox", lambda b: [b[1], b[0], b[3], b[2]]), "axes-swapped", 12, "[26, 11, 28, 18]"),
    (
        each("bbox", lambda b: [b[1], b[0], b[1] + b[3], b[0] + b[2]]),
        "axes-swapped",
        12,
        "[26, 11, 54, 29]",
    ),
    (swapped_polygons, "axes-swapped", 6, "and a mask in [6, 54, 20, 30]"),
    (everything_swapped, "axes-swapped", 6, "has the 'bbox' [6, 54, 20, 30]"),
    (scaled_polygons, "polygon-normalized", 6, "a mask in [0.5625, 0.09375, 0.3125, 0.3125]"),
    (row_order, "rle-order", 12, "annotation 1 of image 0.png"),
    (large_in_row_order, "rle-order", 1, "'bbox' [6, 4, 84, 56], and a mask in [6, 0, 84, 64]"),
    (
        of(POLYGON, bbox=[10, 30, 30, 20]),
        "box-differs",
        1,
        "'bbox' [10, 30, 30, 20], and a mask in [54, 6, 30, 20]",
    ),
    (
        of(POLYGON, bbox=[54, 6, 60, 20], segmentation=[[54, 6, 114, 6, 114, 26, 54, 26]]),
        "box-outside",
        1,
        "its image is 96 wide and 64 high",
    ),
    # 9 and 11
    (
        of(POLYGON, image_id=99),
        "image-id-unknown",
        1,
        "annotation 2 has image_id 99 (int), which is not in 'images'",
    ),
    (
        of(POLYGON, area=6),
        "area-differs",
        1,
        "annotation 2 of image 0.png has the 'area' 6, its mask has 600 pixels",
    ),
    (of(RLE, area=5e9), "area-differs", 1, "'area' 5000000000.0, its mask has 400 pixels"),
    (image(file_name="1.png"), "file-name-twice", 1, "image 12 has the file 1.png of image 11"),
    (
        lambda c: c["annotations"].append({**c["annotations"][1], "id": 99}),
        "object-twice",
        1,
        "annotation 99 of image 0.png is the object of annotation 2 once more",
    ),
]


@pytest.mark.parametrize("change, kind, said", ERRORS)
def test_check_coco_finds_errors(tmp_path, change, kind, said):
    content = make_content()
    change(content)
    found = find(tmp_path, content)
    assert kind in found, found
    severity, _, first = found[kind]
    assert severity == "error" and said in first.line and first.source.endswith("set.json")
    assert "\n" not in first.line and len(first.line) < 500


@pytest.mark.parametrize("change, kind, count, said", WARNINGS)
def test_check_coco_finds_what_is_hardly_meant(tmp_path, change, kind, count, said):
    content = make_content()
    change(content)
    found = find(tmp_path, content)
    assert kind in found, found
    severity, number, first = found[kind]
    assert severity == "warning" and number == count and said in first.line


@pytest.mark.parametrize("list_name, key", [("images", "width"), ("categories", "name")])
def test_check_coco_knows_what_is_listed_with_an_error(tmp_path, list_name, key):
    content = make_content()
    del content[list_name][1][key]
    assert [*find(tmp_path, content)] == ["key-missing"]


def test_check_coco_finds_nothing_in_a_valid_set(tmp_path):
    assert find(tmp_path, make_content()) == {}


@pytest.mark.parametrize(
    "change",
    [
        each("id", lambda x: x - 1),
        each("id", lambda x: -x),
        each("id", str),
        each("id", float),
        each("id", lambda x: f"3f2c-{x}"),
        each("id", lambda x: x if x % 2 else str(x)),
        each("id", lambda x: 2**60 + x),
    ],
)
def test_check_coco_notes_annotation_ids_that_other_tools_refuse(tmp_path, change):
    content = make_content()
    change(content)
    found = find(tmp_path, content)
    assert [(kind, x[0]) for kind, x in found.items()] == [("annotation-id-kind", "note")]


@pytest.fixture
def registered(tmp_path):
    """A function that registers contents or dicts by name; their images are there."""
    names = []
    write_images(tmp_path / "images")

    def register(**sets):
        for name, content in sets.items():
            names.append(name)
            if isinstance(content, list):
                DatasetCatalog.register(name, lambda content=content: content)
                MetadataCatalog.get(name).set(thing_classes=["round", "square", "corner"])
                continue
            path = tmp_path / f"{name}.json"
            path.write_text(json.dumps(content))
            register_coco_instances(name, {}, str(path), str(tmp_path / "images"))
        return tmp_path / "images"

    yield register
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


def make_cfg(train=("faulty",), test=(), num_classes=3):
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON = "RGB", True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def make_dicts(folder, num=3):
    annotation = {"bbox": [54, 6, 84, 26], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    annotation["segmentation"] = [[54.0, 6.0, 84.0, 6.0, 84.0, 26.0, 54.0, 26.0]]
    return [
        {
            **{"file_name": str(folder / f"{i}.png"), "height": HEIGHT, "width": WIDTH},
            **{"image_id": i, "annotations": [dict(annotation)]},
        }
        for i in range(num)
    ]


def test_check_datasets_says_how_many_errors_there_are(registered):
    content = make_content()
    each("iscrowd", lambda _: None)(content)
    content["annotations"][5]["bbox"] = None
    registered(faulty=content)
    said = (
        r"faulty.json: annotation 1 of image 0.png has the 'iscrowd' None \(null\), which must be "
        r"0 or 1; .*--fix.* \(12 more errors: `queryinst data check` lists all\)$"
    )
    with pytest.raises(ValueError, match=said):
        check_datasets(make_cfg(), training=True)


def test_check_datasets_logs_warnings_by_kind(registered, caplog):
    content = make_content()
    each("bbox", as_corners)(content)
    content["annotations"][0]["area"] = 4000
    registered(faulty=content)
    with caplog.at_level(logging.WARNING, "queryinst.data.checks"):
        check_datasets(make_cfg(test=("faulty",)), training=True)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "1 x areas that are not the mask's" in lines[0]
    assert lines[1].startswith("12 x boxes that fit as [x1, y1, x2, y2]")
    assert "faulty.json: annotation 1 of image 0.png" in lines[1] and "x2 - x1" in lines[1]


def test_check_datasets_looks_at_all_images(registered):
    folder = registered(faulty=make_content())
    image = folder / "5.png"  # the sixth
    pixels = image.read_bytes()
    image.write_bytes((folder / "4.png").read_bytes()[:30])
    with pytest.raises(ValueError, match="5.png"):
        check_datasets(make_cfg(), training=True)
    image.unlink()
    with pytest.raises(FileNotFoundError, match="image .*5.png does not exist"):
        check_datasets(make_cfg(), training=True)
    image.write_bytes(pixels)
    content = make_content()
    content["images"][5]["file_name"] = "s3://bucket/5.png"  # below the folder of images
    registered(url=content)
    with pytest.raises(FileNotFoundError, match="images/s3://bucket/5.png does not exist"):
        check_datasets(make_cfg(("url",)), training=True)
    content = make_content()
    content["images"][5]["width"] = 97
    content["annotations"] = content["annotations"][:10]
    registered(other=content)
    with pytest.raises(ValueError, match="5.png is 96x64, its annotation says 97x64"):
        check_datasets(make_cfg(("other",)), training=True)


@pytest.mark.parametrize("num_classes", [3, 1])
def test_check_datasets_advises_to_complete_categories(registered, num_classes):
    content = make_content()
    content["annotations"] = [x for x in content["annotations"] if x["category_id"] == 1]
    content["categories"] = content["categories"][:1]
    registered(faulty=make_content(), val=content)
    said = (
        r"data set 'val' \(DATASETS.TEST\) has 1 class \(round\), 'faulty' \(DATASETS.TRAIN\) 3 "
        r"classes \(round, square, corner\); list the same .*missing in one: 'corner', 'square'"
    )
    with pytest.raises(ValueError, match=said):
        check_datasets(make_cfg(test=("val",), num_classes=num_classes), training=True)


def test_check_datasets_does_not_advise_another_number_of_classes_in_evaluation(registered):
    content = make_content()
    content["annotations"] = [x for x in content["annotations"] if x["category_id"] == 1]
    content["categories"] = content["categories"][:1]
    registered(val=content)
    with pytest.raises(ValueError, match="NUM_CLASSES is 3; list all classes of the model in it"):
        check_datasets(make_cfg(test=("val",)), training=False)


def test_check_datasets_warns_of_more_objects_than_there_is_room_for(registered, caplog):
    registered(faulty=make_content())
    cfg = make_cfg(test=("faulty",))
    cfg.MODEL.QUERYINST.NUM_QUERIES = cfg.TEST.DETECTIONS_PER_IMAGE = 1
    check_datasets(cfg, training=True)
    lines = [x.getMessage() for x in caplog.records if x.levelno >= logging.WARNING]
    assert len(lines) == 2 and all(
        line.startswith("6 x images with more objects") for line in lines
    )
    assert "0.png has 2 objects, MODEL.QUERYINST.NUM_QUERIES is 1" in lines[0]
    assert "0.png has 2 objects, TEST.DETECTIONS_PER_IMAGE is 1" in lines[1]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda d: d[1].pop("image_id"), "the dict of image 1 has no 'image_id'"),
        (lambda d: d[1].update(image_id=np.int64(1)), r"'image_id' .*1\)? \(int64\), which eval"),
        (lambda d: d[1].update(image_id=None), r"'image_id' None \(null\)"),
        (lambda d: [x.update(image_id=7) for x in d], "image 1 has the 'image_id' 7 of image 0"),
        (lambda d: d[1].update(height="64"), r"'height' '64' \(str\)"),
        (
            lambda d: d[1]["annotations"][0].update(segmentation=[np.arange(8.0)]),
            r"annotation of image .*1.png has the 'segmentation' array.*\(ndarray\), which eval",
        ),
        (
            lambda d: d[1]["annotations"][0].update(
                segmentation=[list(np.float32([54, 6, 84, 6, 84, 26, 54, 26]))]
            ),
            r"has the 'segmentation' .*54.* \(float32\), which evaluation cannot write",
        ),
        (lambda d: d[1]["annotations"][0].update(category_id=0.5), r"category_id 0.5 \(float\)"),
        (lambda d: d[1]["annotations"][0].update(iscrowd=None), r"'iscrowd' None \(null\)"),
        (lambda d: d[1]["annotations"][0].update(bbox=[84, 26, 54, 6]), "must not be negative"),
    ],
)
def test_check_datasets_finds_errors_of_dicts_before_the_training(registered, change, said):
    folder = registered()
    dicts = make_dicts(folder)
    change(dicts)
    registered(faulty=dicts)
    with pytest.raises(ValueError, match=f"data set 'faulty': .*{said}"):
        check_datasets(make_cfg(test=("faulty",)), training=True)


def test_check_datasets_takes_dicts_with_numbers_of_numpy(registered):
    folder = registered()
    dicts = make_dicts(folder)
    for entry in dicts:
        entry.update(height=np.int64(HEIGHT), width=np.int32(WIDTH))
        entry["annotations"][0].update(bbox=np.float32([54, 6, 84, 26]), category_id=np.int64(1))
    registered(faulty=dicts)
    check_datasets(make_cfg(test=("faulty",)), training=True)


def test_check_dicts_compares_boxes_and_masks(tmp_path):
    dicts = make_dicts(tmp_path)
    for entry in dicts:
        entry["annotations"][0]["bbox_mode"] = BoxMode.XYWH_ABS
    findings = Findings()
    use = Use(True, False, True, None, 100, 3, 10**8)
    check_dicts(dicts, "mine", findings=findings, use=use)
    (group,) = findings.groups()
    assert group.kind.name == "box-xyxy" and group.count == 3
