import csv
import http.server
import io
import json
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from queryinst import load
from queryinst.data.video_reading import VideoReader
from queryinst_cli import main

KINDS = ["picture", "coco", "jsonl", "masks", "crops", "csv"]
IDS = {"circle": 5, "square": 7, "star": 9}


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def files(folder):
    return sorted(str(x.relative_to(folder)) for x in Path(folder).rglob("*") if x.is_file())


@pytest.fixture
def url(tmp_path):
    """Serves the test's folder over HTTP."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_predict_saves_what_the_model_finds_in_every_kind(
    tmp_path, model_file, picture, queryinst_predict
):
    path = picture(tmp_path / "in" / "a.jpg")
    status, out, err = queryinst_predict("in/a.jpg", "--save", *KINDS, "--output", "out")
    result = load(model_file, device="cpu")(path)
    assert status == 0 and err == "" and len(result) > 1
    assert out.startswith("in/a.jpg: ") and f"1 image, {len(result)} objects" in out
    assert (Image.open("out/a.jpg")).size == result.draw().size

    rows = lines("out/objects.jsonl")
    assert [row["file"] for row in rows] == ["in/a.jpg"] * len(result)
    assert [row["class"] for row in rows] == result.names
    assert [row["category_id"] for row in rows] == [IDS[name] for name in result.names]
    np.testing.assert_allclose([row["score"] for row in rows], result.scores, atol=1e-6)
    np.testing.assert_allclose([row["box"] for row in rows], result.boxes, atol=1e-3)
    for row, mask in zip(rows, result.masks):
        assert np.array_equal(coco_mask.decode(row["rle"]), mask)
        outlines = [np.array(x, np.float32).reshape(-1, 1, 2) for x in row["polygons"]]
        area = sum(map(cv2.contourArea, outlines))
        assert area >= mask.sum() and bool(outlines) == mask.any()  # holes are filled

    with open("out/objects.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["class"] for row in table] == result.names
    assert [int(row["area"]) for row in table] == result.masks.sum((1, 2)).tolist()

    labels = Image.open("out/masks/a.png")
    assert labels.mode.startswith("I;16")
    expected = np.zeros(result.image_size, int)
    for index in reversed(range(len(result))):
        expected[result.mask(index)] = index + 1
    assert np.array_equal(np.asarray(labels), expected)

    pixels = np.asarray(Image.open(path))
    for index, (name, mask) in enumerate(zip(result.names, result.masks)):
        crop = Path(f"out/crops/a/{index + 1:03d}-{name}.png")
        assert crop.exists() == mask.any()
        if mask.any():
            cut_out = np.asarray(Image.open(crop))
            assert cut_out.shape[2] == 4 and (cut_out[..., 3] > 0).sum() == mask.sum()
            assert np.array_equal(cut_out[cut_out[..., 3] > 0][:, :3], pixels[mask])


def test_predict_saves_json_that_pycocotools_and_annotation_tools_load(
    tmp_path, model_file, picture, queryinst_predict
):
    for seed, name in enumerate(["000012.png", "000007.png"]):
        picture(tmp_path / "in" / name, seed)
    assert queryinst_predict("in", "--save", "coco", "--output", "out")[0] == 0
    truth = COCO("out/annotations.json")
    assert {x["id"]: x["file_name"] for x in truth.loadImgs(truth.getImgIds())} == {
        7: "000007.png",
        12: "000012.png",
    }
    assert {x["name"]: x["id"] for x in truth.loadCats(truth.getCatIds())} == IDS
    results = truth.loadRes("out/results.json")
    for image_id in (7, 12):
        expected = load(model_file, device="cpu")(f"in/{image_id:06d}.png")
        found = results.loadAnns(results.getAnnIds([image_id]))
        assert [x["category_id"] for x in found] == [IDS[name] for name in expected.names]
        np.testing.assert_allclose([x["score"] for x in found], expected.scores, atol=1e-6)
        for entry, mask in zip(found, expected.masks):
            assert np.array_equal(results.annToMask(entry), mask)
        drafts = truth.loadAnns(truth.getAnnIds([image_id]))
        assert len(drafts) == sum(mask.any() for mask in expected.masks)
        for draft in drafts:
            assert draft["iscrowd"] == 0 and draft["area"] > 0 and "score" in draft
            assert truth.annToMask(draft).sum() >= draft["area"]  # holes are filled


def test_predict_takes_image_ids_from_the_annotations_beside(tmp_path, picture, queryinst_predict):
    picture(tmp_path / "shapes" / "val" / "b.png", 0)
    picture(tmp_path / "shapes" / "val" / "a.png", 1)
    images = [{"id": 31, "file_name": "b.png"}, {"id": "x", "file_name": "a.png"}, {"id": 8}]
    (tmp_path / "shapes" / "annotations").mkdir()
    (tmp_path / "shapes" / "annotations" / "train.json").write_text('{"images": []}')
    (tmp_path / "shapes" / "annotations" / "val.json").write_text(json.dumps({"images": images}))
    status, out, _ = queryinst_predict("shapes/val", "--save", "coco", "--output", "out")
    assert status == 0 and "image ids are those of" in out
    found = json.loads(Path("out/annotations.json").read_text())["images"]
    assert {x["file_name"]: x["id"] for x in found} == {"b.png": 31, "a.png": "x"}


@pytest.mark.parametrize(
    "inputs, message",
    [
        (["gone.png"], "gone.png matches no file (working directory "),
        (["empty"], "the folder empty holds no image or video"),
        (["*.jpg", "gone.png"], "); none of the 2 inputs exists"),
    ],
)
def test_predict_refuses_inputs_of_which_none_exists_before_it_loads_a_model(
    tmp_path, queryinst_predict, monkeypatch, inputs, message
):
    monkeypatch.setattr("queryinst_cli.predict.find_weights", lambda _: pytest.fail("looked up"))
    (tmp_path / "empty").mkdir()
    status, out, err = queryinst_predict(*inputs, "--output", "out")
    assert (status, out, err.count("\n")) == (1, "", 1) and message in err
    assert not Path("out").exists()


def test_predict_leaves_out_what_fails_and_goes_on(tmp_path, picture, queryinst_predict):
    picture(tmp_path / "a.png"), picture(tmp_path / "z.png")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    inputs = ["a.png", "text.jpg", "missing.jpg", "none*.png", "empty", "z.png"]
    for batch in ("1", "8"):
        out = f"out{batch}"
        words = [*inputs, "--save", "csv", "--output", out, "--batch", batch]
        status, out, err = queryinst_predict(*words)
        assert status == 1 and "2 images" in out
        for name in ("text.jpg", "missing.jpg", "none*.png", "empty"):
            assert sum(name in line for line in err.splitlines()) == 1, name
        assert err.endswith("4 of 6 inputs left out, see above\n")


def test_predict_leaves_out_the_one_image_of_a_batch_that_cannot_be_predicted(
    tmp_path, picture, queryinst_predict, monkeypatch
):
    from queryinst.predict.eager import EagerBackend

    for seed, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", seed, (64, 96 + 8 * seed))
    detect = EagerBackend.detect

    def failing(self, images, score):
        if any(image.shape[1] == 104 for image in images):
            raise RuntimeError("out of\nmemory")
        return detect(self, images, score)

    monkeypatch.setattr(EagerBackend, "detect", failing)
    words = ["*.png", "--batch", "3", "--save", "jsonl", "--output", "out"]
    status, out, err = queryinst_predict(*words)
    assert status == 1 and "left out: b.png: out of memory\n" in err
    assert {row["file"] for row in lines("out/objects.jsonl")} == {"a.png", "c.png"}


def test_predict_names_do_not_collide(tmp_path, picture, queryinst_predict):
    inputs = ["x/a.png", "y/a.png", "y/A.jpg", "x/a-2.png", "x/masks.png"]
    for seed, name in enumerate(inputs):
        picture(tmp_path / name, seed)
    words = [*inputs, "--save", "picture", "masks", "--output", "out"]
    assert queryinst_predict(*words)[0] == 0
    stems = {"a", "a-2", "A-3", "a-2-2", "masks-2"}
    assert {Path(x).stem for x in files("out/masks")} == stems
    assert {Path(x).stem for x in files("out") if "/" not in x} == stems
    assert queryinst_predict("x/a.png", "x/./a.png", "--output", "two")[1].count("x/a.png") == 1


def test_predict_overwrites_only_with_the_flag(tmp_path, picture, queryinst_predict):
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)
    words = ["a.png", "--save", *KINDS, "--output", "out"]
    assert queryinst_predict(*words)[0] == 0
    before = {name: Path("out", name).read_bytes() for name in files("out")}
    status, out, err = queryinst_predict(*words)
    assert status == 1 and "add --overwrite" in err and err.count("\n") == 1 and out == ""
    assert before == {name: Path("out", name).read_bytes() for name in files("out")}
    assert queryinst_predict("b.png", "--output", "out")[0] == 0  # of another name
    (tmp_path / "out" / "crops" / "a" / "mine.txt").write_text("kept")
    assert queryinst_predict(*words, "--overwrite", score="1")[0] == 0
    assert [x for x in files("out/crops")] == ["a/mine.txt"]  # those of before are gone
    assert lines("out/objects.jsonl") == []


@pytest.mark.parametrize(
    "words, text",
    [
        (["a.png", "--output", "."], "would replace the input a.png"),
        (["a.png", "--output", ".", "--overwrite"], "would replace the input a.png"),
        (["a.png", "--output", "new.gif"], "new.gif is a file's name"),
        (["a.png", "--output", "a.png/x"], "cannot make the folder"),
        (["a.png", "--opts", "MODEL.NONE", "1"], "MODEL.NONE"),
    ],
)
def test_predict_refuses_before_it_predicts(tmp_path, picture, queryinst_predict, words, text):
    before = Path(picture(tmp_path / "a.png")).read_bytes()
    status, out, err = queryinst_predict(*words)
    assert status == 1 and text in err and err.count("\n") == 1 and out == ""
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("words", [["--tta"], ["--slice", "64"], ["--tta", "--slice", "64"]])
def test_predict_passes_options_to_the_model(
    tmp_path, model_file, picture, queryinst_predict, words
):
    path = picture(tmp_path / "a.png", size=(96, 128))
    options = {name: {"--tta": True, "--slice": 64}[f"--{name}"] for name in ("tta", "slice")}
    options = {name: value for name, value in options.items() if f"--{name}" in words}
    expected = load(model_file, device="cpu").predict(path, score=0.0, **options)
    assert queryinst_predict("a.png", *words, "--save", "jsonl", "--output", "out")[0] == 0
    rows = lines("out/objects.jsonl")
    np.testing.assert_allclose([row["score"] for row in rows], expected.scores, atol=1e-6)
    np.testing.assert_allclose([row["box"] for row in rows], expected.boxes, atol=1e-3)


def test_predict_takes_exported_files_and_refuses_what_they_cannot(
    tmp_path, model_file, exported_file, picture, queryinst_predict
):
    picture(tmp_path / "a.png")
    for model, output in ((model_file, "one"), (exported_file, "two")):
        words = ["a.png", "--save", "jsonl", "--output", output]
        assert queryinst_predict(*words, model=model)[0] == 0
    one, two = lines("one/objects.jsonl"), lines("two/objects.jsonl")
    assert [row["class"] for row in one] == [row["class"] for row in two] != []
    np.testing.assert_allclose([r["box"] for r in one], [r["box"] for r in two], atol=0.1)
    status, out, err = queryinst_predict("a.png", "--tta", "--output", "x", model=exported_file)
    assert (
        status == 1 and out == "" and "no test-time augmentation" in err and "left out" not in err
    )


def test_predict_names_the_models_if_there_is_none(picture, tmp_path, queryinst_predict):
    picture(tmp_path / "a.png")
    status, _, err = queryinst_predict("a.png", model="R_50")
    assert status == 1 and "no model 'R_50'" in err and "R_50_FPN_3x_300q" in err
    assert not (tmp_path / "output").exists()


def test_predict_says_the_best_score(tmp_path, model_file, picture, queryinst_predict):
    path = picture(tmp_path / "a.png")
    best = load(model_file, device="cpu")(path)[0]
    status, out, _ = queryinst_predict("a.png", "--output", "out", score="1")
    assert status == 0 and f"the best is {best.scores[0]:.3g} ({best.names[0]})" in out
    assert f"nothing exceeds --score 1; the best score is {best.scores[0]:.3g}" in out
    assert (tmp_path / "out" / "a.png").exists()


def test_predict_takes_addresses_and_standard_input(
    tmp_path, picture, queryinst_predict, url, monkeypatch
):
    path = picture(tmp_path / "in" / "a b.png")
    address = f"{url}/in/a%20b.png?size=1"
    content = io.TextIOWrapper(io.BytesIO(Path(path).read_bytes()))
    monkeypatch.setattr(sys, "stdin", content)
    words = [path, address, "-", f"{url}/none.png", "--save", "csv", "masks", "--output", "out"]
    status, out, err = queryinst_predict(*words)
    assert status == 1 and f"{url}/none.png could not be downloaded (HTTP 404" in err
    with open("out/objects.csv", newline="") as file:
        rows = [[*row.values()] for row in csv.DictReader(file)]
    names = [path, address, "-"]
    of = {name: [row[1:] for row in rows if row[0] == name] for name in names}
    assert of[path] == of[address] == of["-"] != []
    assert files("out/masks") == ["a b-2.png", "a b.png", "stdin.png"]


def test_predict_takes_the_frames_of_videos(tmp_path, picture, queryinst_predict, caplog):
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for seed in range(3):
        writer.write(cv2.imread(picture(tmp_path / "frames" / f"{seed}.png", seed)))
    writer.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    words = ["clip.avi", "frames/0.png", "broken.mp4", "--save", *KINDS, "--output", "out"]
    status, out, err = queryinst_predict(*words, "--batch", "2")
    assert status == 1 and "broken.mp4 is no video" in err and "4 images" in out
    assert [Path(x).stem for x in files("out/masks/clip")] == ["000000", "000001", "000002"]
    assert "wrote out/clip.mp4: 3 frames of 96x64, H.264" in caplog.text
    with VideoReader("out/clip.mp4") as video:
        frames = [frame.pixels for frame in video]
        assert video.rate == 5 and [frame.shape for frame in frames] == [(64, 96, 3)] * 3
    rows = lines("out/objects.jsonl")
    assert not any("track_id" in row for row in rows)
    assert {row.get("frame") for row in rows} == {0, 1, 2, None}
    images = json.loads(Path("out/annotations.json").read_text())["images"]
    assert [x["file_name"] for x in images] == [*(f"clip/00000{i}.jpg" for i in range(3)), "0.png"]
    assert len({x["id"] for x in images}) == 4


def test_predict_tracks_the_objects_of_each_video(tmp_path, picture, queryinst_predict):
    still = cv2.imread(picture(tmp_path / "in" / "0.png"))
    for name in ("one.avi", "two.avi"):
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
        for _ in range(3):
            writer.write(still)
        writer.release()
    words = ["in/0.png", "one.avi", "two.avi", "--track", "--save", "jsonl", "--output", "out"]
    status, _, err = queryinst_predict(*words)
    rows = lines("out/objects.jsonl")
    assert status == 0, err
    assert not any("track_id" in row for row in rows if row["file"] == "in/0.png")
    for name in ("one.avi", "two.avi"):
        ids = [
            {r["track_id"] for r in rows if (r["file"], r.get("frame")) == (name, n)}
            for n in range(3)
        ]
        assert ids[0] == ids[1] == ids[2] == set(range(1, len(ids[0]) + 1)) != set()


def test_predict_says_that_there_is_nothing_to_track(tmp_path, picture, queryinst_predict):
    picture(tmp_path / "in" / "0.png")
    status, _, err = queryinst_predict("in/0.png", "--track", "--output", "out")
    assert status == 0 and "--track does nothing: no input is a video" in err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "on_terminal, flags, shows", [(1, [], 1), (1, ["--no-progress"], 0), (0, [], 0)]
)
def test_predict_shows_progress_on_a_terminal(
    tmp_path, model_file, picture, monkeypatch, on_terminal, flags, shows
):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    stream = Terminal() if on_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    words = [*paths, "--model", model_file, "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["predict", *words, *flags]) == 0
    assert ("3/3" in stream.getvalue()) == bool(shows)


def test_predict_keeps_what_was_predicted_when_interrupted(
    tmp_path, model_file, picture, monkeypatch, capfd
):
    from queryinst.predict.eager import EagerBackend

    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", seed)
    detect, calls = EagerBackend.detect, []

    def interrupted(self, images, score):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return detect(self, images, score)

    monkeypatch.setattr(EagerBackend, "detect", interrupted)
    words = ["a.png", "b.png", "--model", model_file, "--device", "cpu", "--score", "0"]
    assert main(["predict", *words, "--save", "coco", "--output", "out"]) == 130
    assert capfd.readouterr().err.endswith("queryinst predict: interrupted\n")
    assert {x["image_id"] for x in json.loads(Path("out/results.json").read_text())} == {1}
    assert len(COCO("out/annotations.json").imgs) == 1


def test_predict_takes_the_threshold_and_the_device_of_opts(tmp_path, model_file, picture, capfd):
    path = picture(tmp_path / "a.png")
    words = ["predict", path, "--model", model_file, "--no-progress"]
    words += ["--output", str(tmp_path / "out"), "--opts"]
    scores = load(model_file, device="cpu")(path).scores
    threshold = float(scores[:2].mean())
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(threshold)]
    assert main([*words, *opts, "MODEL.DEVICE", "cpu"]) == 0
    assert f"{(scores > threshold).sum()} object" in capfd.readouterr().out
    assert main([*words, *opts, "MODEL.DEVICE", "cpu", "--overwrite", "--score", "0"]) == 0
    out, err = capfd.readouterr()
    assert f"{len(scores)} objects" in out and "--score 0 replaces MODEL.ROI_HEADS" in err
    assert main(["predict", "--overwrite", *words[1:], "MODEL.DEVICE", "gpu7"]) == 1
    err = capfd.readouterr().err
    assert "gpu7" in err and err.count("\n") == 1


def test_load_takes_the_threshold_of_opts_and_a_device_of_torch(model_file, exported_file):
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.75"]
    assert load(model_file, device=torch.device("cpu"), opts=opts).score == 0.75
    assert load(model_file, device="cpu", opts=opts, score=0.5).score == 0.5
    assert load(exported_file, device=torch.device("cpu")).score == 0
