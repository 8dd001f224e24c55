"""The report of a small run that is written here by hand: two images, two classes."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pycocotools.mask as mask_util
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from queryinst.data.registration import register_from_args
from queryinst.report import make_report
from queryinst.report.curves import ap_curves, line_chart, loss_curves
from queryinst.report.run_files import parse_metrics
from queryinst_cli import main

NAME = "test_report_set"
GRAY = 90  # of all pixels of all images: what differs from it was drawn
SIZE = 64


def mask_of(x0, y0, x1, y1):
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return mask


def as_json(mask):
    rle = mask_util.encode(mask)
    box = [float(side) for side in mask_util.toBbox(rle)]
    rle["counts"] = rle["counts"].decode()
    return {"segmentation": rle, "bbox": box, "area": int(mask.sum())}


def truth(number, image_id, category_id, mask, iscrowd=0):
    fields = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": iscrowd}
    return {**fields, **as_json(mask)}


def prediction(image_id, category_id, score, mask):
    return {"image_id": image_id, "category_id": category_id, "score": score, **as_json(mask)}


LEFT, RIGHT, LOW = mask_of(4, 24, 20, 40), mask_of(40, 24, 56, 40), mask_of(24, 48, 40, 60)
TRUTHS = [
    truth(1, 1, 3, LEFT),
    truth(2, 1, 8, RIGHT),
    truth(3, 2, 3, LEFT),
    truth(4, 2, 8, LOW, iscrowd=1),
]
PREDICTIONS = [
    prediction(1, 3, 0.9, LEFT),  # found
    prediction(1, 3, 0.8, LEFT),  # the same once more: extra
    prediction(1, 3, 0.7, RIGHT),  # another class: extra, and RIGHT is missed
    prediction(2, 3, 0.4, LEFT),  # below the threshold
    prediction(2, 8, 0.6, LOW),  # on a crowd: neither found nor extra
]


@pytest.fixture
def run(tmp_path):
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    for number in (1, 2):
        Image.fromarray(np.full((SIZE, SIZE, 3), GRAY, np.uint8)).save(images / f"{number}.png")
    coco = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIZE, "width": SIZE} for n in (1, 2)
        ],
        "annotations": TRUTHS,
        "categories": [{"id": 3, "name": "a <script>"}, {"id": 8, "name": "disc"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    (output / "inference" / NAME).mkdir(parents=True)
    files = {
        "config.yaml": yaml.safe_dump(
            {
                "SOLVER": {"MAX_ITER": 40, "IMS_PER_BATCH": 2, "BASE_LR": 0.1},
                "DATASETS": {"TRAIN": ["<script>train</script>"]},
                "MODEL": {"WEIGHTS": "<script>weights</script>"},
            }
        ),
        "results.json": json.dumps(
            {
                NAME: {
                    "bbox": {"AP": 41.26, "AP50": 50.0, "AP-a <script>": 33.3},
                    "segm": {"AP": 61.74, "AP50": 70.0, "APl": None, "AP-a <script>": 44.4},
                }
            }
        ),
        "metrics.json": '{"iteration": 19, "total_loss": 3.0, "loss_cls_stage0": 1.0, '
        '"loss_cls_stage1": 2.0}\n{"iteration": 39, "total_loss": 1.5, "segm/AP": 61.74}\n',
        f"inference/{NAME}/coco_instances_results.json": json.dumps(PREDICTIONS),
        "log.txt": "Total training time: 0:08:11 (0:00:12 on hooks)\n",
    }
    for name, text in files.items():
        (output / name).write_text(text)
    register_from_args([(NAME, str(tmp_path / "truth.json"), str(images))])
    yield output
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class Links(HTMLParser):
    """Collects what a page would load, and its texts."""

    def __init__(self, page):
        super().__init__()
        self.links, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe"), tag

    def handle_data(self, data):
        self.texts.append(data)


def test_make_report_writes_one_page_that_holds_the_figures(run):
    report = make_report(str(run), min_score=0.5)
    page = (run / "report.html").read_text()
    parsed = Links(page)
    assert len(parsed.links) == 2 and all(x.startswith("data:image/") for x in parsed.links)
    assert not re.search(r"url\(|@import", page)
    text = " ".join(parsed.texts)
    for expected in (
        "61.7",
        "41.3",
        "44.4",
        "33.3",
        "a <script>",
        "0:08:11",
        "1 of 2",
        NAME,
        "40 of 2 images each",
    ):
        assert expected in text, expected
    for name in ("train", "weights"):  # in the configuration too
        assert text.count(f"<script>{name}</script>") >= 2
    assert page.count("<svg") == 2
    assert report.counts[:3] == (1, 3, 2)


def test_make_report_draws_where_the_objects_are(run):
    report = make_report(str(run), min_score=0.5)
    assert [path[-9:] for path in report.picture_paths] == ["001-1.png", "002-2.png"]
    picture = np.asarray(Image.open(report.picture_paths[0])).astype(int)
    scale = 4
    header = picture.shape[0] - SIZE * scale
    left, right = picture[header:, : SIZE * scale], picture[header:, -SIZE * scale :]

    def colour(half, x, y):  # within a mask, where neither outline nor label is
        pixels = half[(y - 2) * scale : (y + 2) * scale, (x - 2) * scale : (x + 2) * scale]
        assert (pixels == pixels[0, 0]).all()
        return pixels[0, 0]

    for half in (left, right):
        assert (colour(half, 32, 32) == GRAY).all()  # between the objects
        assert (colour(half, 32, 8) == GRAY).all()
    assert (colour(left, 12, 34) != GRAY).any() and (colour(left, 48, 34) != GRAY).any()
    assert (colour(right, 48, 34) == GRAY).all()  # of the wrong class: a red outline
    assert (right[39 * scale : 40 * scale, 48 * scale] == (255, 48, 48)).all(1).any()
    # Pixels of each mask, outlines aside, are all its colour: no shift, no wrong scale.
    inner = left[(24 + 1) * scale : 40 * scale - 8, (40 + 1) * scale : 56 * scale - 8]
    assert (inner == inner[-1, -1]).all(axis=2).mean() > 0.95
    second = np.asarray(Image.open(report.picture_paths[1])).astype(int)[header:]
    assert (colour(second[:, -SIZE * scale :], 12, 34) == GRAY).all()  # score 0.4 is not drawn


def test_make_report_chooses_the_score_at_which_most_is_right(run):
    report = make_report(str(run))
    # 0.9 finds one, 0.4 another, and the two wrong ones lie between: F1 2/4, or 4/7 with all.
    assert report.counts == (2, 3, 2, 0.4, True)
    assert "F1" in (run / "report.html").read_text()
    path = run / "inference" / NAME / "coco_instances_results.json"
    path.write_text(json.dumps(PREDICTIONS[:3]))
    assert make_report(str(run)).counts == (1, 3, 0, 0.9, True)
    path.write_text("[]")
    assert make_report(str(run)).counts == (0, 3, 0, 0.5, True)


def test_make_report_inlines_the_pictures(run):
    report = make_report(str(run), num_images=1, min_score=0.5)
    (link,) = Links((run / "report.html").read_text()).links
    inlined = np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))))
    picture = np.asarray(Image.open(report.picture_paths[0]))
    assert np.abs(inlined.astype(int) - picture[-len(inlined) :]).mean() < 4  # JPEG


def test_make_report_leaves_no_picture_of_the_last_report(run):
    make_report(str(run), min_score=0.5)
    (run / "pictures" / "mine.png").write_bytes(b"kept")
    make_report(str(run), num_images=1, min_score=0.5)
    assert sorted(p.name for p in (run / "pictures").iterdir()) == ["001-1.png", "mine.png"]


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "results.json",
        "metrics.json",
        f"inference/{NAME}/coco_instances_results.json",
    ],
)
def test_make_report_names_a_missing_file(run, name):
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(name)) as caught:
        make_report(str(run), min_score=0.5)
    assert "\n" not in str(caught.value)


def test_make_report_raises_errors_of_one_line(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        make_report(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="--num-images 0"):
        make_report(str(run), num_images=0)
    (run / "results.json").write_text('{"never_registered": {}}')
    (run / "inference" / "never_registered").mkdir()
    (run / "inference" / "never_registered" / "coco_instances_results.json").write_text("[]")
    with pytest.raises(ValueError, match="--dataset never_registered JSON IMAGE_ROOT"):
        make_report(str(run), min_score=0.5)
    (run / "results.json").write_text("{")
    with pytest.raises(ValueError, match="results.json is not valid JSON: line 1, column 2"):
        make_report(str(run), min_score=0.5)


def test_make_report_draws_boxes_where_there_are_no_masks(run):
    path = run / "inference" / NAME / "coco_instances_results.json"
    boxes = [{k: v for k, v in p.items() if k != "segmentation"} for p in PREDICTIONS]
    path.write_text(json.dumps(boxes))
    report = make_report(str(run), min_score=0.5)
    assert report.counts[:3] == (1, 3, 2)
    picture = np.asarray(Image.open(report.picture_paths[0])).astype(int)
    half = picture[-SIZE * 4 :, -SIZE * 4 :]
    assert (half[34 * 4, 48 * 4] == GRAY).all()  # within the box
    assert (half[34 * 4, 40 * 4] != GRAY).any()  # on its edge


@pytest.mark.parametrize("kind", ["polygons", "counts"])
def test_make_report_matches_masks_of_each_kind(run, tmp_path, kind):
    coco = json.loads((tmp_path / "truth.json").read_text())
    for annotation in coco["annotations"][:3]:
        x, y, width, height = annotation["bbox"]
        segmentation = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if kind == "counts":  # column by column, as COCO's crowds: outside, inside, outside, ...
            x, y, width, height = map(int, (x, y, width, height))
            counts = [SIZE * x + y, *[height, SIZE - height] * width]
            counts[-1] = SIZE * SIZE - sum(counts[:-1])
            segmentation = {"size": [SIZE, SIZE], "counts": counts}
        annotation["segmentation"] = segmentation
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    report = make_report(str(run), min_score=0.5)
    assert report.counts[:3] == (1, 3, 2)
    picture = np.asarray(Image.open(report.picture_paths[0])).astype(int)
    assert (picture[-SIZE * 4 :][34 * 4, 12 * 4] != GRAY).any()  # within LEFT


def test_loss_curves_sum_over_the_stages():
    line = {"iteration": 19, "loss_mask_stage0": 1.0, "loss_mask_stage1": 2.5, "total_loss": 3.5}
    later = {"iteration": 39, "lr": 0.1, "val_total_loss": 5.0, "val_loss_mask_stage0": 5.0}
    curves = loss_curves([line, later], 40)
    total, mask = ("total", [(20, 3.5)]), ("mask", [(20, 3.5)])
    assert list(curves.items()) == [total, ("validation", [(40, 5.0)]), mask]


def test_ap_curves_of_one_or_of_several_test_sets():
    alone = ap_curves(
        [{"iteration": 9, "segm/AP": 5.0}, {"iteration": 20, "segm/AP": 7.0}], "x", 20
    )
    assert alone == {"mask AP": [(10, 5.0), (20, 7.0)]}
    lines = [{"iteration": 9, "x/bbox/AP": 5.0, "y/bbox/AP": 1.0, "x/segm/AP": float("nan")}]
    assert ap_curves(lines, "x", 20) == {"box AP": [(10, 5.0)]}


def test_parse_metrics_takes_what_a_resumed_training_did_over():
    text = '{"iteration": 0, "a": 1}\n{"iteration": 1, "a": 2}\n{"iteration": 2, "a": 3}\n'
    text += '{"iteration": 1, "a": 5}\n{"itera'  # resumed at 1, then killed
    metrics = parse_metrics(text, "metrics.json")
    assert [(m["iteration"], m["a"]) for m in metrics] == [(0, 1), (1, 5)]


@pytest.mark.parametrize(
    "text, iterations, lines",
    [
        ('no json\n{"iteration": 1}\n', [1], "line 1"),
        ('{"iteration": 0}\n{"iteration": 1, "to{"iteration": 2, "a": 1}\n', [0, 2], "line 2"),
        ('{"iteration": 0}{"iteration": 1}\n{"iteration": 2}', [0, 1, 2], "line 1"),
        ('{"iteration": 0}\n\0\0\0\ufffd\x1c\u2028\n{"iteration": 1}', [0, 1], "line 2"),
        ('{"iteration": 0}\n\0\0{"iteration": 1}\n{"itera', [0, 1], "line 2, 3"),
        ("[1]\n5\nnull\n{}\n" + "[" * 100_000 + "\nx\nx\n", [], "line 1, 2, 3, 4, 5 and 2 more"),
        ('{"iteration": "1"}\n{"iteration": -1}\n{"iteration": true}\n', [], "line 1, 2, 3"),
        ('{"iteration": %s}\n{"iteration": 7}' % ("9" * 5000), [7], "line 1"),
        ('{"iteration": %s}\n{"iteration": 7}' % ("9" * 500), [7], "line 1"),
        ('{"iteration": 1, "a": %s}\n{"iteration": 7}' % ("9" * 500), [7], "line 1"),
        ('{"iteration": 3}\r\n{"iteration": 4}\r\n', [3, 4], None),
    ],
)
def test_parse_metrics_leaves_out_torn_lines_with_one_warning(text, iterations, lines, caplog):
    metrics = parse_metrics(text, "output/metrics.json")
    assert [line["iteration"] for line in metrics] == iterations
    expected = [f"output/metrics.json: left out what is torn or damaged in {lines}"] * bool(lines)
    assert caplog.messages == expected


def test_parse_metrics_leaves_out_what_is_no_number():
    text = '{"iteration": 1, "loss": NaN, "lr": "x", "a": [1], "b": null, "c": true, "d": 2}'
    (line,) = parse_metrics(text, "metrics.json")
    assert line.keys() == {"iteration", "loss", "d"}


def test_make_report_passes_over_torn_metrics(run, caplog):
    with open(run / "metrics.json", "ab") as file:
        file.write(b'{"iteration": 39, "segm\xff\x00{"iteration": 39, "segm/AP": 70.5}\n')
    page = open(make_report(str(run), min_score=0.5).page_path).read()
    assert "mask AP 70.5" in page
    assert [m for m in caplog.messages if "metrics.json" in m] == [
        f"{run / 'metrics.json'}: left out what is torn or damaged in line 3"
    ]


BOX = "must be four finite numbers"
SCORE = r"which must be in \[0, 1\]"
ID = "which must be an integer"
RLE = {"size": [SIZE, SIZE], "counts": [SIZE * SIZE]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bbox": [0, 0, 1e308, 5]}, BOX),
        ({"bbox": [0, 0, float("nan"), 5]}, BOX),
        ({"bbox": [0, 0, 5]}, BOX),
        ({"bbox": "0123"}, BOX),
        ({"bbox": [0, [0], 5, 5]}, BOX),
        ({"bbox": [0, 0, 10**400, 5]}, BOX),
        ({"bbox": [0, 0, -5, 5]}, "width and height must not be negative"),
        ({"bbox": None}, BOX),
        ({"score": "0.9"}, SCORE),
        ({"score": float("nan")}, SCORE),
        ({"score": 10**400}, SCORE),
        ({"score": True}, SCORE),
        ({"image_id": [1]}, ID),
        ({"image_id": 10**400}, ID),
        ({"image_id": None}, ID),
        ({"category_id": {"a": 1}}, ID),
        ({"category_id": 1.5}, ID),
        ({"segmentation": {"size": [100000, 100000], "counts": "1"}}, "'size' .100000, 100000"),
        ({"segmentation": {"size": [100000, 100000], "counts": [10**10]}}, "'size' .100000"),
        ({"segmentation": {**RLE, "counts": "oooo"}}, "end within a number"),
        ({"segmentation": {**RLE, "counts": "1"}}, "add up to 1 pixels"),
        ({"segmentation": {**RLE, "counts": [-1, 4097]}}, "must be from 0 to"),
        ({"segmentation": [[0, 0, 1e9, 0, 5, 5]]}, "numbers from -1000000"),
        ({"segmentation": [[0, 0, float("inf"), 0, 5, 5]]}, "numbers from -1000000"),
        ({"segmentation": 5}, "of type int"),
    ],
)
def test_make_report_refuses_malformed_predictions(run, change, message):
    path = run / "inference" / NAME / "coco_instances_results.json"
    path.write_text(json.dumps([PREDICTIONS[0], {**PREDICTIONS[1], **change}]))
    with pytest.raises(ValueError, match=message) as caught:
        make_report(str(run), min_score=0.5)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and len(line) < 600


@pytest.mark.parametrize("as_id", ["image {}".format, float, lambda n: 2**63 - 2 + n])
def test_make_report_takes_image_ids_of_any_kind(run, tmp_path, as_id):
    expected = make_report(str(run), min_score=0.5).counts
    for path in (tmp_path / "truth.json", run / "inference" / NAME / "coco_instances_results.json"):
        content = json.loads(path.read_text())
        is_truth = isinstance(content, dict)
        for entry in content["annotations"] if is_truth else content:
            entry["image_id"] = as_id(entry["image_id"])
        for image in content["images"] if is_truth else ():
            image["id"] = as_id(image["id"])
        path.write_text(json.dumps(content))
    assert make_report(str(run), min_score=0.5).counts == expected
    assert expected.num_matched == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"segmentation": {"size": [100000, 100000], "counts": [10**10]}}, "'size' .100000"),
        ({"segmentation": {**RLE, "counts": "oooo"}}, "end within a number"),
        ({"segmentation": [[0, 0, 1e9, 0, 5, 5]]}, "numbers from -1000000"),
        ({"bbox": [0, 0, 1e308, 5]}, BOX),
    ],
)
@pytest.mark.parametrize("number", [0, 3])  # the latter is a crowd
def test_make_report_refuses_malformed_ground_truth(run, tmp_path, change, message, number):
    coco = json.loads((tmp_path / "truth.json").read_text())
    coco["annotations"][number].update(change)
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=f"truth.json: annotation {number + 1} .*{message}"):
        make_report(str(run), min_score=0.5)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("results.json", "[" * 100_000, "nested too deeply"),
        ("results.json", '{"a": %s}' % ("1" * 5000), "5000 digits"),
        ("results.json", "[]", "holds a list, not an object"),
        ("results.json", '{"a": 5}', "which must be an object of numbers"),
        ("results.json", '{"a": {"segm": [1]}}', "which must be an object of numbers"),
        ("results.json", '{"a": {"segm": {"AP": "high"}}}', "which must be an object of numbers"),
        ("results.json", '{"a": {"segm": {"AP": 1%s}}}' % ("0" * 400), "must be an object of num"),
        ("results.json", '{"a": {}, "a": {}}', "the key 'a' more than once"),
        ("config.yaml", "SOLVER: {MAX_ITER: many}", "SOLVER.MAX_ITER 'many', which must be >= 1"),
        ("config.yaml", "SOLVER: 5", "SOLVER.MAX_ITER None, which must be >= 1"),
        (f"inference/{NAME}/coco_instances_results.json", "{}", "holds a dict, not a list"),
        (f"inference/{NAME}/coco_instances_results.json", "[5]", "prediction 0 is 5, not an obj"),
        (f"inference/{NAME}/coco_instances_results.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_make_report_names_a_malformed_file(run, name, text, message):
    (run / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        make_report(str(run), min_score=0.5)
    assert str(run / name) in str(caught.value) and "\n" not in str(caught.value)


def test_make_report_keeps_to_the_runs_limit_of_pixels(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["INPUT"] = {"MAX_PIXELS": SIZE * SIZE - 1}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="INPUT.MAX_PIXELS is 4095"):
        make_report(str(run), min_score=0.5)
    config["INPUT"] = {"MAX_PIXELS": SIZE * SIZE}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    make_report(str(run), min_score=0.5)


def lines_of(chart, group):
    """The heights of the points of each line in the SVG's groups of this id, from the top down."""
    paths = re.findall(rf'<g id="{group}">.*?<path[^>]* d="([^"]+)"', chart, re.S)
    return [[float(y) for y in re.findall(r"[ML] [-\d.]+ ([-\d.]+)", path)] for path in paths]


def ticks_of(chart, axis):
    """Value -> text of the ticks of an axis."""
    ticks = re.findall(rf'<g id="{axis}tick_\d+">.*?<text[^>]*>([^<]+)</text>', chart, re.S)
    return {float(text.replace(",", "")): text for text in ticks}


@pytest.mark.parametrize("highest", [0.013, 0.9, 1, 7, 61.7, 100, 1234, 88000])
def test_line_chart_has_few_ticks_that_reach_the_highest_value(highest):
    values = list(ticks_of(line_chart({"x": [(10, highest)]}), "y"))
    assert values[0] == 0 and values[-1] >= highest and 4 <= len(values) <= 8
    assert values[-1] < 1.5 * highest


@pytest.mark.parametrize("lowest, highest", [(0.7, 96), (1, 1), (3, 4), (0.02, 0.03), (1e-5, 7e5)])
def test_line_chart_has_ticks_of_logarithms_that_enclose_the_values(lowest, highest):
    chart = line_chart({"x": [(10, lowest), (20, highest)]}, log=True)
    values = list(ticks_of(chart, "y"))
    assert values[0] <= lowest and values[-1] >= highest and 2 <= len(values) <= 16
    assert values == sorted(set(values))
    assert values[1] > lowest or len(values) == 2


def test_line_chart_ends_curves_at_the_right_height():
    chart = line_chart({"x": [(10, 1.0), (100, 100.0)]}, log=True)
    (heights,) = lines_of(chart, "curve-0")
    grid = [height for line in lines_of(chart, r"ytick_\d+") for height in line]
    assert heights == [max(grid), min(grid)]  # the lowest and the highest line of the grid


def test_line_chart_says_what_a_point_is_and_where_the_curves_end():
    curves = {"mask AP": [(50, 20.0), (1200, 61.74)], "box AP": [(1200, 61.0)]}
    chart = line_chart(curves, y_max=100)
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", chart)
    assert {"mask AP 61.7", "box AP 61", "iteration", "1,200"} <= set(texts)
    titles = re.findall("<title>([^<]+)</title>", chart)
    assert titles[:2] == ["mask AP 20 at iteration 50", "mask AP 61.74 at iteration 1,200"]
    heights = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>[a-z]+ AP 61', chart)]
    assert len(heights) == 2 and heights[1] - heights[0] > 12  # one above the other


def test_line_chart_is_the_same_each_time_and_names_no_place():
    curves = {"x": [(1, 1.0), (2, 3.0)]}
    chart = line_chart(curves)
    assert chart == line_chart(curves) and "http" not in chart.partition(">")[2]


def test_line_chart_escapes_names():
    chart = line_chart({"<script>'\"&$x$": [(1, 1.0)]})
    texts = Links(chart).texts
    assert "<script>'\"&$x$ 1" in texts and "<script>'\"&$x$ 1 at iteration 1" in texts


def test_line_chart_of_nothing_is_empty():
    assert line_chart({}) == line_chart({"x": [(1, 0.0)]}, log=True) == ""


def test_make_report_says_that_there_are_no_curves(run):
    (run / "metrics.json").write_text('{"iteration": 0, "lr": 1}\n')
    make_report(str(run), min_score=0.5)
    page = (run / "report.html").read_text()
    assert "Losses: the run recorded none." in page and "AP: the run recorded none." in page


def test_queryinst_report_prints_the_figures(run, capsys):
    assert main(["report", str(run), "--num-images", "1", "--confidence-threshold", "0.5"]) == 0
    out = capsys.readouterr().out
    assert f"{NAME}:" in out and "mask: AP 61.7  AP50 70.0" in out and "pictures: 1 in" in out
    assert (run / "report.html").exists()
    (run / "results.json").unlink()
    assert main(["report", str(run)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("queryinst report: error: ") and err.count("\n") == 1
