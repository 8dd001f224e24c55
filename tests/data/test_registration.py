import argparse
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from queryinst.data.registration import add_dataset_argument, register_from_args

NAME = "test_registration_set"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    coco = {
        "images": [{"id": 7, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 5,
                "bbox": [1, 1, 2, 2],
                "area": 4,
                "iscrowd": 0,
                "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]],
            }
        ],
        "categories": [{"id": 5, "name": "coin"}, {"id": 9, "name": "note"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    yield str(tmp_path / "a.json"), str(tmp_path / "images")
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def test_register_from_args_registers_categories(files):
    parser = argparse.ArgumentParser()
    add_dataset_argument(parser)
    assert parser.parse_args([]).dataset == []
    args = parser.parse_args(["--dataset", NAME, *files])
    register_from_args(args.dataset)
    (image,) = DatasetCatalog.get(NAME)
    assert image["file_name"] == f"{files[1]}/a.png"
    assert [annotation["category_id"] for annotation in image["annotations"]] == [0]
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["coin", "note"]
    assert metadata.evaluator_type == "coco"


def test_register_from_args_refuses_other_data_of_a_known_name(files):
    register_from_args([(NAME, *files)])
    register_from_args([(NAME, *files)])
    with pytest.raises(ValueError, match=f"{NAME}: another data set has this name"):
        register_from_args([(NAME, files[0], files[1] + "/")])
    with pytest.raises(ValueError, match="coco_2017_val: another data set has this name"):
        register_from_args([("coco_2017_val", *files)])


def test_register_from_args_names_what_does_not_exist(files):
    with pytest.raises(FileNotFoundError, match="no file /none.json"):
        register_from_args([(NAME, "/none.json", files[1])])
    with pytest.raises(FileNotFoundError, match="no folder /none"):
        register_from_args([(NAME, files[0], "/none")])
    with pytest.raises(ValueError, match="needs a name"):
        register_from_args([("", *files)])
    assert NAME not in DatasetCatalog
