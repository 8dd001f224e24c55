import json
import os

from queryinst.own_data.sources import read_data


def test_read_data_gives_the_same_objects_in_every_format(
    any_format, tmp_path, expected, read_objects
):
    splits = read_data(any_format, str(tmp_path / "work"))
    assert [split.name for split in splits] == ["train", "val"]
    for split in splits:
        assert read_objects(split.json_file) == expected[split.name]
        content = json.loads(open(split.json_file).read())
        assert [x["name"] for x in content["categories"]] == ["bolt", "nut", "washer"]
        for image in content["images"]:
            assert os.path.isfile(os.path.join(split.image_root, image["file_name"]))
