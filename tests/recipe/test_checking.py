"""Only what the recipe does not solve by itself is said of the data."""

import json

from PIL import Image

from queryinst.own_data.sources import read_data
from queryinst.recipe.checking import check_parts
from queryinst.recipe.parts import Parts


def test_check_parts_leaves_out_that_the_default_has_too_few_queries(tmp_path):
    corners = [(x, y) for x in range(0, 80, 4) for y in range(0, 80, 4)]  # 400 objects
    annotations = [
        {
            **{"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9},
            **{"bbox": [x, y, 3, 3], "segmentation": [[x, y, x + 3, y, x + 3, y + 3, x, y + 3]]},
        }
        for number, (x, y) in enumerate(corners, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 80}],
        "categories": [{"id": 1, "name": "dot"}],
        "annotations": annotations,
    }
    (tmp_path / "all.json").write_text(json.dumps(content))
    Image.new("RGB", (80, 80)).save(tmp_path / "a.png")
    [split] = read_data(f"{tmp_path / 'all.json'}:{tmp_path}", None)
    checked = check_parts(Parts(split, None))
    assert checked == ("", 0)
    opts = ["MODEL.QUERYINST.NUM_QUERIES", "399"]
    text, errors = check_parts(Parts(split, None), opts)
    assert "image a.png has 400 objects, MODEL.QUERYINST.NUM_QUERIES is 399" in text
    assert errors == 0 and "[objects-over-detections]" not in text
    text, errors = check_parts(Parts(split, split))
    assert "error [images-in-parts]" in text and "do not keep it from training" in text
    assert errors == 0
