"""Each way in which a data set can be wrong gives one line that says so, before any training."""

import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from queryinst.config import add_queryinst_config
from queryinst.data import checks
from queryinst.data.checks import check_datasets

HEIGHT, WIDTH = 8, 10


def make_cfg(train=("few_train",), test=(), **model):
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.MASK_ON = model.get("masks", True)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = model.get("num_classes", 2)
    return cfg


def make_content():
    """Two images; a polygon, a compressed and an uncompressed RLE."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[2:4, 3:6] = 1
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    segmentations = [
        [[1, 1, 5, 1, 5, 5]],
        rle,
        {"size": [HEIGHT, WIDTH], "counts": [10, 5, HEIGHT * WIDTH - 15]},
    ]
    return {
        "images": [
            {"id": id_, "file_name": f"{id_}.png", "height": HEIGHT, "width": WIDTH}
            for id_ in (4, 9)
        ],
        "annotations": [
            {
                "id": 10 + i,
                "image_id": 4,
                "category_id": 3 + 4 * (i % 2),
                "bbox": [1, 1, 4, 4],
                "area": 8,
                "iscrowd": 0,
                "segmentation": segmentation,
            }
            for i, segmentation in enumerate(segmentations)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def register(tmp_path):
    """Write and register data sets; forget them at the end."""
    names = []

    def _register(content=None, name="few_train", metadata=None, write_images=True):
        folder = tmp_path / name
        folder.mkdir()
        if write_images:
            for id_ in (4, 9):
                Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{id_}.png")
        text = content if isinstance(content, str) else json.dumps(content or make_content())
        json_file = tmp_path / f"{name}.json"
        json_file.write_text(text)
        register_coco_instances(name, metadata or {}, str(json_file), str(folder))
        names.append(name)
        return folder

    def _register_dicts(dicts, name="few_train", **metadata):
        DatasetCatalog.register(name, dicts if callable(dicts) else lambda: copy.deepcopy(dicts))
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    _register.dicts = _register_dicts
    yield _register
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


def changed(change):
    content = make_content()
    change(content)
    return content


def make_dicts(folder):
    """The same data as Detectron2's loader returns it."""
    annotation = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotation["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    image = {"file_name": str(folder / "4.png"), "height": HEIGHT, "width": WIDTH, "image_id": 4}
    return [{**image, "annotations": [annotation]}]


@pytest.mark.parametrize("training", [True, False])
def test_check_datasets_passes_good_data(register, training):
    register()
    register(name="few_val")
    check_datasets(make_cfg(test=("few_val",)), training=training)
    assert len(get_detection_dataset_dicts(["few_train"])) == 1  # one image has no instance
    check_datasets(make_cfg(test=("few_val",)), training=training)  # now with metadata filled in


def test_check_datasets_needs_test_sets_only_in_evaluation(register):
    register()
    check_datasets(make_cfg(), training=True)
    with pytest.raises(ValueError, match="DATASETS.TEST is empty"):
        check_datasets(make_cfg(), training=False)
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        check_datasets(make_cfg(train=()), training=True)


def test_check_datasets_ignores_training_data_in_evaluation(register):
    register(name="few_val")
    check_datasets(make_cfg(train=("nowhere",), test=("few_val",)), training=False)


@pytest.mark.parametrize(
    "name, advice", [("few_trian", "did you mean 'few_train'"), ("\u00e9", "register it first")]
)
def test_check_datasets_refuses_unregistered_names(register, name, advice):
    register()
    message = f"names '{name}', which is not a registered data set; {advice}"
    with pytest.raises(ValueError, match=f"DATASETS.TRAIN {message}"):
        check_datasets(make_cfg(train=(name,)), training=True)
    with pytest.raises(ValueError, match=f"DATASETS.TEST {message}"):
        check_datasets(make_cfg(test=(name,)), training=True)


def test_check_datasets_refuses_missing_files(register, tmp_path):
    register()
    (tmp_path / "few_train" / "9.png").unlink()
    with pytest.raises(FileNotFoundError, match="'few_train': image .*9.png does not exist"):
        check_datasets(make_cfg(), training=True)
    (tmp_path / "few_train" / "4.png").unlink()
    (tmp_path / "few_train").rmdir()
    with pytest.raises(FileNotFoundError, match="image folder .*few_train of data set .* put it"):
        check_datasets(make_cfg(), training=True)
    (tmp_path / "few_train.json").unlink()
    with pytest.raises(FileNotFoundError, match="annotation file .*few_train.json of data set"):
        check_datasets(make_cfg(), training=True)


@pytest.mark.parametrize("has_metadata", [True, False])
def test_check_datasets_refuses_another_class_count(register, has_metadata):
    register(metadata={"thing_classes": ["cat", "dog"]} if has_metadata else None)
    message = (
        r"data set 'few_train' has 2 classes \(cat, dog\), but MODEL.ROI_HEADS.NUM_CLASSES is 80; "
        "set MODEL.ROI_HEADS.NUM_CLASSES 2"
    )
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(num_classes=80), training=True)


def test_check_datasets_refuses_different_classes_of_train_and_test(register):
    register()
    register(changed(lambda c: c["categories"][0].update(name="cow")), name="few_val")
    message = (
        r"class 1 is 'dog' in 'few_train' \(DATASETS.TRAIN\), but 'cow' in 'few_val' "
        r"\(DATASETS.TEST\)"
    )
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(test=("few_val",)), training=True)


def test_check_datasets_refuses_registered_classes_that_differ_from_the_file(register):
    register(metadata={"thing_classes": ["dog", "cat"]})
    with pytest.raises(ValueError, match="registered with the classes dog, cat, but .* cat, dog"):
        check_datasets(make_cfg(), training=True)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"images": [}', r"few_train.json is not valid JSON: line 1, column 13: "),
        ("", "not valid JSON: line 1, column 1"),
        ("[]", r"holds a list, not an object .*predictions"),
        ('{"annotations": [], "categories": []}', "has no list 'images'"),
        ('{"images": [], "categories": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": {}, "categories": []}', "has no list 'annotations'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', "'images' is empty"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] is not an object"),
    ],
)
def test_read_coco_json_refuses_malformed_json(register, text, message):
    register(text)
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(), training=True)


def test_read_coco_json_refuses_what_is_not_text(register, tmp_path):
    register()
    (tmp_path / "few_train.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match="few_train.json is not valid JSON: not UTF-8"):
        check_datasets(make_cfg(), training=True)


def set_segmentation(segmentation):
    return lambda content: content["annotations"][1].update(segmentation=segmentation)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["images"][1].pop("width"), r"images\[1\] \(id 9\) has no 'width'"),
        (lambda c: c["images"][1].update(id=4), "the id 4 occurs twice in 'images'"),
        (lambda c: c["categories"].clear(), "'categories' is empty"),
        (lambda c: c["categories"][0].pop("name"), r"categories\[0\] \(id 7\) has no 'name'"),
        (lambda c: c["annotations"][2].update(id=10), "the id 10 occurs twice in 'annotations'"),
        (lambda c: c["annotations"][2].pop("bbox"), r"annotations\[2\] \(id 12\) has no 'bbox'"),
        (
            lambda c: c["annotations"][2].update(category_id=5),
            r"annotation 12 has category_id 5 \(int\), wh",
        ),
        (lambda c: c["annotations"][2].update(ignore=1), "annotation 12 has 'ignore'"),
        (
            lambda c: c["annotations"][2].update(bbox=[1, 2]),
            r"12 of image 4.png has the 'bbox' \[1, 2",
        ),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, "a", 3]), "must be four finite numbers"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, float("nan"), 3]), "four finite numbers"),
        (lambda c: c["annotations"][2].update(bbox=None), "'bbox' None, which must be"),
        (lambda c: c["annotations"].clear(), "has 2 images, but none with an instance"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "none with an instance"),
        (lambda c: [a.update(image_id=1) for a in c["annotations"]], "none with an instance"),
        (set_segmentation("text"), "annotation 11 of image 4.png has a 'segmentation' of type str"),
        (
            set_segmentation([1, 1, 5, 1, 5, 5]),
            "11 of image 4.png has 1 in its 'segmentation' where",
        ),
        (
            set_segmentation([[1, 1, 5, 5]]),
            r"11 .* no polygon of at least 3 points .*hold \[4\] num",
        ),
        (
            set_segmentation([[1, 1, 5, 5, 6, 6, 7]]),
            r"no polygon of at least 3 points .*hold \[7\]",
        ),
        (set_segmentation({"size": [8, 10]}), "11 .* with 'counts' None"),
        (
            set_segmentation({"counts": "11"}),
            r"'size' None, its image has \[height, width\] \[8, 10\]",
        ),
        (set_segmentation({"size": [10, 8], "counts": "11"}), r"'size' \[10, 8\], its image has"),
        (set_segmentation({"size": [8, 10], "counts": [3]}), "add up to 3 pixels, .* 8 x 10 = 80"),
    ],
)
def test_check_datasets_names_wrong_entries(register, change, message):
    register(changed(change))
    with pytest.raises(ValueError, match=message) as caught:
        check_datasets(make_cfg(), training=True)
    assert "few_train" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", [None, []])
def test_check_instances_refuses_missing_masks(register, empty):
    def change(content):
        for annotation in content["annotations"][1:]:
            annotation["segmentation"] = empty

    register(changed(change))
    message = (
        r"few_train.json: annotation 11 of image 4.png has no mask \('segmentation'\); .* "
        r"MODEL.MASK_ON False \(1 more error:"
    )
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(), training=True)
    check_datasets(make_cfg(masks=False), training=True)


def test_check_instances_passes_a_bad_polygon_beside_a_good_one(register):
    register(changed(set_segmentation([[1, 1, 5, 5], [1, 1, 5, 1, 5, 5]])))
    check_datasets(make_cfg(), training=True)


def test_check_instances_checks_crowds_only_for_evaluation(register):
    def change(content):
        content["annotations"][0].update(iscrowd=1, segmentation=None)

    register(changed(change))
    check_datasets(make_cfg(), training=True)
    with pytest.raises(ValueError, match="annotation 10 of image 4.png has no mask"):
        check_datasets(make_cfg(test=("few_train",)), training=False)


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_read_coco_json_refuses_what_evaluation_fails_on(register, key):
    register()
    register(changed(lambda c: c["annotations"][0].pop(key)), name="few_val")
    check_datasets(make_cfg(train=("few_val",)), training=True)
    with pytest.raises(ValueError, match=rf"annotations\[0\] \(id 10\) has no '{key}'"):
        check_datasets(make_cfg(test=("few_val",)), training=True)


def test_read_coco_json_passes_a_test_set_without_annotations(register):
    register(changed(lambda c: c.pop("annotations")), name="tiny_test")
    check_datasets(make_cfg(test=("tiny_test",)), training=False)


def test_check_datasets_reads_the_first_images(register, tmp_path):
    folder = register()
    Image.new("F", (WIDTH, HEIGHT)).save(folder / "9.png", format="TIFF")
    with pytest.raises(ValueError, match="9.png: its pixels have 32 bits"):
        check_datasets(make_cfg(), training=True)
    Image.new("L", (WIDTH + 1, HEIGHT)).save(folder / "9.png")
    with pytest.raises(ValueError, match="9.png is 11x8, its annotation says 10x8"):
        check_datasets(make_cfg(), training=True)


def test_check_datasets_passes_dicts(register):
    folder = register(name="files")
    register.dicts(make_dicts(folder), thing_classes=["a", "b"])
    register.dicts(make_dicts(folder), name="unnamed_classes")
    check_datasets(make_cfg(), training=True)
    check_datasets(make_cfg(train=("unnamed_classes",), test=("few_train",)), training=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.clear(), "'few_train' has no images"),
        (lambda d: d[0].pop("annotations"), "the dict of image 0 has no 'annotations'"),
        (lambda d: d[0]["annotations"].clear(), "has 1 images, but none with an instance"),
        (lambda d: d[0]["annotations"][0].pop("bbox_mode"), "4.png has no 'bbox_mode'"),
        (
            lambda d: d[0]["annotations"][0].update(category_id=2),
            r"category_id 2 \(int\), .*NUM_CLASSES 2",
        ),
        (
            lambda d: d[0]["annotations"][0].pop("segmentation"),
            "an annotation of image .*4.png has no mask",
        ),
        (
            lambda d: d[0].update(file_name="gone.png"),
            "'few_train': image gone.png does not exist",
        ),
    ],
)
def test_check_datasets_names_wrong_dicts(register, change, message):
    dicts = make_dicts(register(name="files"))
    change(dicts)
    register.dicts(dicts)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_datasets(make_cfg(), training=True)


def test_check_datasets_names_a_loader_that_fails(register):
    def fail():
        assert False, "two\nlines"

    register.dicts(fail)
    with pytest.raises(ValueError, match="'few_train' cannot be loaded: AssertionError: two lines"):
        check_datasets(make_cfg(), training=True)


def test_check_datasets_refuses_another_class_count_of_dicts(register):
    folder = register(name="files")
    register.dicts(make_dicts(folder), thing_classes=[f"c{i}" for i in range(5)])
    with pytest.raises(ValueError, match=r"has 5 classes \(c0, c1, c2, ...\), but .* is 2"):
        check_datasets(make_cfg(), training=True)


def test_check_datasets_names_the_package_of_a_published_format(register, monkeypatch, tmp_path):
    def load():
        raise AssertionError("slow loaders are not called by the checks")

    register.dicts(load, evaluator_type="lvis", thing_classes=["a", "b"], image_root=str(tmp_path))
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="'few_train' needs the package lvis: pip install lvis"):
        check_datasets(make_cfg(), training=True)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: name)
    check_datasets(make_cfg(), training=True)
    with pytest.raises(ValueError, match="NUM_CLASSES is 3"):
        check_datasets(make_cfg(num_classes=3), training=True)


def set_keys(index=1, **values):
    return lambda content: content["annotations"][index].update(values)


def set_image(**values):
    return lambda content: content["images"][1].update(values)


def set_category(**values):
    return lambda content: content["categories"][1].update(values)


HUGE, NAN, INF = 10**400, float("nan"), float("inf")
BOX = "must be four finite numbers from -1000000 to 1000000"
COORDINATES = "must hold numbers from -1000000 to 1000000"
ID = "which must be an integer"
SIDES = "must be integers of at least 1"
TEXT = "which must be one line of text of 1 to"


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize(
    "change, message",
    [
        (set_keys(bbox=[0, 0, 1e308, 1]), BOX),
        (set_keys(bbox=[0, 0, INF, 1]), BOX),
        (set_keys(bbox=[HUGE, 0, 1, 1]), BOX),
        (set_keys(bbox=[True, 0, 1, 1]), BOX),
        (set_keys(bbox=["1", 0, 1, 1]), BOX),
        (set_keys(bbox=[[1], 0, 1, 1]), BOX),
        (set_keys(bbox="1234"), BOX),
        (set_keys(bbox={"a": 1}), BOX),
        (set_keys(bbox=[]), BOX),
        (set_keys(bbox=[1, 1, -1, 4]), "whose width and height must not be negative"),
        (set_keys(iscrowd=2), r"'iscrowd' 2 \(int\), which must be 0 or 1"),
        (set_keys(iscrowd="0"), r"'iscrowd' '0' \(str\), which must be 0 or 1"),
        (set_keys(iscrowd=None), r"'iscrowd' None \(null\), which must be 0 or 1"),
        (set_keys(iscrowd=[]), r"'iscrowd' .. \(list\), which must be 0 or 1"),
        (set_keys(id=[1]), ID),
        (set_keys(id=None), ID),
        (set_keys(id=True), ID),
        (set_keys(id=1.5), ID),
        (set_keys(id=NAN), ID),
        (set_keys(id=HUGE), ID),
        (set_keys(image_id=[4]), ID),
        (set_keys(image_id={"a": 1}), ID),
        (set_keys(image_id=None), ID),
        (set_keys(image_id=HUGE), ID),
        (set_keys(category_id=[3]), ID),
        (set_keys(category_id=True), ID),
        (set_keys(category_id=HUGE), ID),
        (set_keys(ignore=[]), "has 'ignore'"),
        (set_keys(keypoints=5), "'keypoints' 5, which must be a list of numbers"),
        (set_keys(keypoints=["a", "b", 2]), "which must be a list of numbers"),
        (set_image(id=[1]), ID),
        (set_image(id=None), ID),
        (set_image(id=HUGE), ID),
        (set_image(height=0), SIDES),
        (set_image(height=-8), SIDES),
        (set_image(height=8.0), SIDES),
        (set_image(width="10"), SIDES),
        (set_image(width=True), SIDES),
        (set_image(width=None), SIDES),
        (set_image(height=10**9), "10000000000? and 'width' 10: INPUT.MAX_PIXELS is 100000000"),
        (set_image(width=HUGE), "INPUT.MAX_PIXELS is 100000000; raise it"),
        (set_image(file_name=5), TEXT),
        (set_image(file_name=None), TEXT),
        (set_image(file_name=""), TEXT),
        (set_image(file_name="a\0.png"), TEXT),
        (set_image(file_name="a\nb.png"), TEXT),
        (set_image(file_name="\ud800.png"), TEXT),
        (set_image(file_name="x" * 2000), TEXT),
        (set_category(id=[3]), ID),
        (set_category(id=HUGE), ID),
        (set_category(name=5), TEXT),
        (set_category(name=""), TEXT),
        (set_category(name="a\nb"), TEXT),
        (set_category(name="x" * 1000), TEXT),
        (set_category(name=["a"]), TEXT),
        (set_category(name="dog"), "categories 7 and 3 have the same name 'dog'; rename one"),
        (set_segmentation([[1, 1, 5, 1, 1e18, 5]]), COORDINATES),
        (set_segmentation([[1, 1, 5, 1, NAN, 5]]), COORDINATES),
        (set_segmentation([[1, 1, 5, 1, HUGE, 5]]), COORDINATES),
        (set_segmentation([[1, 1, 5, 1, "5", 5]]), COORDINATES),
        (set_segmentation([[[1, 1], [5, 1], [5, 5]]]), COORDINATES),
        (set_segmentation([[1, 1, 5, 1, True, 5]]), COORDINATES),
        (set_segmentation([[0, 0, 999999, 999999] * 9]), "pixels of outline; at most 4000000"),
        (set_segmentation({"size": [8, 10], "counts": "oooo"}), "end within a number"),
        (set_segmentation({"size": [8, 10], "counts": "1"}), "add up to 1 pixels"),
        (set_segmentation({"size": [8, 10], "counts": [-1, 81]}), "must be from 0 to"),
        (set_segmentation({"size": [8, 10], "counts": [80.5]}), "must be integers"),
        (set_segmentation({"size": [8.0, 10], "counts": [80]}), r"'size' \[8.0, 10\], its image"),
        (set_segmentation({"size": [10**5, 10**5], "counts": [10**10]}), "'size' .100000, 100000"),
    ],
)
def test_check_datasets_refuses_what_cannot_be_meant(register, change, message, evaluated):
    register(changed(change))
    test = ("few_train",) if evaluated else ()
    with pytest.raises(ValueError, match=message) as caught:
        check_datasets(make_cfg(test=test), training=True)
    line = str(caught.value)
    assert "few_train" in line and "\n" not in line and len(line) < 600


@pytest.mark.parametrize(
    "segmentation", [{"size": [8, 10], "counts": [99]}, [[0, 0, 1e9, 9, 1, 1]]]
)
def test_check_datasets_refuses_masks_that_only_detectron2s_loader_reads(register, segmentation):
    """It draws RLE of crowds, and of box detectors."""
    register(changed(set_keys(segmentation=segmentation)))
    with pytest.raises(ValueError, match="annotation 11 of image 4.png"):
        check_datasets(make_cfg(masks=False), training=True)
    register(changed(set_keys(segmentation=segmentation, iscrowd=1)), name="crowd")
    with pytest.raises(ValueError, match="annotation 11 of image 4.png"):
        check_datasets(make_cfg(train=("crowd",)), training=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_keys(area="8"), r"the 'area' '8' \(str\), which must be a number of pixels"),
        (set_keys(area=NAN), "the 'area' nan"),
        (set_keys(area=-1), "the 'area' -1"),
        (set_keys(area=HUGE), "the 'area' 1000"),
        (set_keys(area=None), "the 'area' None"),
        (
            lambda c: (
                c["categories"][0].update(id=7.0),
                c["annotations"][1].update(category_id=7),
            ),
            r"7.0 \(float\), which must be an integer of at least 0",
        ),
    ],
)
def test_read_coco_json_refuses_numbers_that_evaluation_fails_on(register, change, message):
    register(changed(change))
    check_datasets(make_cfg(), training=True)
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(test=("few_train",)), training=False)


def test_read_coco_json_refuses_ids_of_numbers_and_texts(register):
    register(changed(set_image(id="nine")))
    with pytest.raises(ValueError, match="the ids in 'images' are numbers and texts, mixed"):
        check_datasets(make_cfg(), training=True)


@pytest.mark.parametrize(
    "change",
    [
        set_segmentation([[-500, -20.5, 30, -20.5, 5, 700]]),  # beyond the image
        set_keys(bbox=[1, 1, 0, 4]),  # COCO has such; training leaves it out
        set_keys(image_id=4.0),
        set_keys(id=11.0),
        set_image(id=-1),
        set_image(id=2**64 + 1),
        set_image(id=1.5),
        lambda c: [a.update(id=str(a["id"])) for a in c["annotations"]],
        set_image(file_name="../few_train/9.png"),
        set_image(license=HUGE),
    ],
)
def test_check_datasets_passes_what_works(register, change):
    register(changed(change))
    check_datasets(make_cfg(), training=True)
    check_datasets(make_cfg(test=("few_train",)), training=False)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": [], "images": []}', "the key 'images' more than once"),
        ('{"images": %s}' % ("9" * 5000), "5000 digits"),
        ("\ufeff{}", "line 1, column 1: Unexpected UTF-8 BOM"),
    ],
)
def test_read_coco_json_refuses_json_that_python_fails_on(register, text, message):
    register(text)
    with pytest.raises(ValueError, match=f"few_train.json is not valid JSON: .*{message}"):
        check_datasets(make_cfg(), training=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.append(5), "the dict of image 1 has the type int, which must be dict"),
        (
            lambda d: d[0].update(annotations=5),
            "the 'annotations' 5, which must be a list of dicts",
        ),
        (lambda d: d[0]["annotations"].append(None), "must be a list of dicts"),
        (lambda d: d[0].update(height=8.5), SIDES),
        (lambda d: d[0].update(height=10**9), "INPUT.MAX_PIXELS is 100000000"),
        (lambda d: d[0].update(file_name=None), TEXT),
        (
            lambda d: d[0]["annotations"][0].update(category_id="a"),
            r"has category_id 'a' \(str\), which",
        ),
        (
            lambda d: d[0]["annotations"][0].update(category_id=NAN),
            r"has category_id nan \(float\), which",
        ),
        (lambda d: d[0]["annotations"][0].update(bbox_mode=7), "has the 'bbox_mode' 7, which must"),
        (lambda d: d[0]["annotations"][0].update(bbox_mode=BoxMode.XYXY_REL), "'bbox_mode' <BoxM"),
        (lambda d: d[0]["annotations"][0].update(bbox=[5, 5, 1, 6]), "must not be negative"),
        (lambda d: d[0]["annotations"][0].update(bbox=np.full(4, np.nan)), BOX),
        (lambda d: d[0]["annotations"][0].update(iscrowd=np.zeros(3)), "which must be 0 or 1"),
        (lambda d: d[0]["annotations"][0].update(segmentation=np.ones((8, 10))), "of type ndarray"),
        (
            lambda d: d[0]["annotations"][0].update(segmentation=[np.full(6, 1e9)]),
            COORDINATES,
        ),
        (
            lambda d: d[0]["annotations"][0].update(
                segmentation={"size": [8, 10], "counts": b"oooo"}
            ),
            "end within a number",
        ),
    ],
)
def test_check_datasets_refuses_dicts_that_cannot_be_meant(register, change, message):
    dicts = make_dicts(register(name="files"))
    change(dicts)
    register.dicts(dicts)
    with pytest.raises(ValueError, match=message) as caught:
        check_datasets(make_cfg(), training=True)
    assert "few_train" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d[0].pop("image_id"), "the dict of image 0 has no 'image_id'"),
        (lambda d: d[0].update(image_id=[1]), r"the 'image_id' \[1\] \(list\), which must be an"),
        (
            lambda d: d[0]["annotations"][0]["segmentation"].append([1, 2, 3, 4]),
            "cannot be converted to COCO's format for evaluation: .* polygon from 4",
        ),
        (
            lambda d: d[0]["annotations"][0].update(
                segmentation={"size": [8, 10], "counts": [9, 30, 41]}
            ),
            "cannot be converted to COCO's format for evaluation",
        ),
    ],
)
def test_check_datasets_refuses_dicts_that_evaluation_fails_on(register, change, message):
    dicts = make_dicts(register(name="files"))
    change(dicts)
    register.dicts(dicts, thing_classes=["a", "b"])
    check_datasets(make_cfg(), training=True)
    with pytest.raises(ValueError, match=message):
        check_datasets(make_cfg(test=("few_train",)), training=False)


def test_check_datasets_keeps_to_the_limit_of_pixels(register):
    register()
    cfg = make_cfg()
    cfg.INPUT.MAX_PIXELS = HEIGHT * WIDTH
    check_datasets(cfg, training=True)
    cfg.INPUT.MAX_PIXELS = HEIGHT * WIDTH - 1
    with pytest.raises(ValueError, match="'width' 10: INPUT.MAX_PIXELS is 79; raise it, or use sm"):
        check_datasets(cfg, training=True)
