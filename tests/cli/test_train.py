import json
import re
import shlex
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

from queryinst.engine import main as train_net
from queryinst.engine import setup_cfg
from queryinst.engine.run_lock import locked
from queryinst_cli import main
from queryinst_cli.arguments import parse
from queryinst_cli.train import images_to_predict

pytestmark = pytest.mark.usefixtures("untouched_logging")

QUICK = ("--device", "cpu", "--iterations", "3")
QUICK_OPTS = (
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CHECKPOINT_KEEP", "0", "TEST.EVAL_PERIOD", "2"),
)


def part(tiny_data, name):
    """JSON:IMAGE_FOLDER of "train" or "val"."""
    shapes = tiny_data.root / "shapes"
    return f"{shapes / 'annotations' / f'{name}.json'}:{shapes / name}"


@pytest.fixture
def train(capfd):
    """Runs `queryinst train` with words and options of a quick training: (status, out, err)."""

    def run(*words, opts=QUICK_OPTS):
        status = main(["train", *map(str, words), *QUICK, "--opts", *map(str, opts)])
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def done(tiny_data, tiny_run, model_file, tmp_path_factory):
    """A finished training from the tiny model: its words, what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("train") / "out"
    words = [str(tiny_data.root / "shapes"), "--model", model_file, "--output", str(folder)]
    printed = StringIO()
    with redirect_stdout(printed), tiny_run(folder.parent):
        status = main(["train", *words, *QUICK, "--opts", *QUICK_OPTS])
    assert status == 0
    return words, printed.getvalue(), folder


def weights(folder, name="model_final.pth"):
    return torch.load(Path(folder, name), weights_only=False)["model"]


def assert_equal_weights(first, second):
    assert first.keys() == second.keys() and len(first) > 100
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def losses(folder):
    lines = map(json.loads, Path(folder, "metrics.json").read_text().splitlines())
    return [{k: v for k, v in line.items() if "loss" in k or "AP" in k} for line in lines]


def test_train_ends_with_the_report_and_the_line_that_predicts(done):
    words, out, folder = done
    last = out.rstrip().splitlines()[-1]
    assert last.startswith("predict: queryinst predict ")
    args = parse("predict", shlex.split(last)[3:])
    assert args.inputs == [str(Path(words[0]) / "val")] and Path(args.model).parent == folder
    assert Path(args.output) == folder / "predicted"
    assert Path(args.model).name == "model_best.pth" and Path(args.model).exists()
    assert "  mask: AP " in out and (folder / "report.html").exists()
    assert (folder / "results.json").exists()


def test_train_prints_each_key_with_its_reason_and_says_what_opts_replace(done):
    _, out, folder = done
    recipe = json.loads((folder / "recipe.json").read_text())
    rows = {x["key"]: x for x in recipe["keys"]}
    assert len(rows) > 30
    printed = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    for key, row in rows.items():
        assert row["reason"] in printed[key] or key in QUICK_OPTS
        assert ("--opts" in printed[key]) == (key in QUICK_OPTS)
    replaced = r"INPUT.MIN_SIZE_TRAIN +\(64,\) +--opts, instead of \([\d, ]+\) \("
    assert re.search(replaced, printed["INPUT.MIN_SIZE_TRAIN"])
    assert rows["SOLVER.MAX_ITER"]["reason"].startswith("--iterations")
    assert "6 images to train on with" in out and "4 held out" in out


def test_the_command_that_is_printed_makes_the_same_run(done, tmp_path):
    _, out, folder = done
    text = out.partition("python train_net.py ")[2].partition("\n\n")[0]
    words = shlex.split(text.replace("\\\n", ""))
    assert words[:2] == ["--config-file", str(folder / "config.yaml")]
    triples = [words[i + 1 : i + 4] for i, word in enumerate(words) if word == "--dataset"]
    assert len(triples) == 2 and len(words) == 2 + 4 * 2
    opts = ["OUTPUT_DIR", str(tmp_path / "again")]
    train_net(Namespace(config_file=words[1], opts=opts, dataset=triples))
    assert losses(tmp_path / "again") == losses(folder) != []
    assert_equal_weights(weights(tmp_path / "again"), weights(folder))


def test_train_resumes_the_same_run(done, train, tmp_path):
    words, _, folder = done
    out = tmp_path / "out"
    out.mkdir()
    for name in ("config.yaml", "recipe.json", "model_0000001.pth", "metrics.json"):
        (out / name).write_bytes((folder / name).read_bytes())
    (out / "last_checkpoint").write_text("model_0000001.pth")
    status, printed, err = train(*words[:-1], out, "--resume")
    assert status == 0, err
    assert f"going on with {out}/config.yaml" in printed and "resumed after 2 iterations" in printed
    assert_equal_weights(weights(out), weights(folder))
    assert setup_cfg(str(out / "config.yaml")).SOLVER.MAX_ITER == 3


def test_train_refuses_a_folder_with_a_training(done, train):
    words, _, folder = done
    before = sorted(path.name for path in folder.iterdir())
    status, out, err = train(*words)
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "holds a training already; go on with it by --resume, or name another --output" in err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "changed, text",
    [
        (["--batch", "2"], "--batch 2, but the training in {} was without it"),
        (["--model", "none"], "--model none, but the training in {} began with"),
        (["--opts", "SOLVER.BASE_LR", "0.5"], "--opts SOLVER.BASE_LR 0.5, but the training in {}"),
        (["--opts", "NO.KEY", "1"], "unknown key NO.KEY"),
    ],
)
def test_train_resumes_with_nothing_that_matters_changed(done, capfd, changed, text):
    words, _, folder = done
    status = main(["train", *words, "--resume", *changed])
    out, err = capfd.readouterr()
    assert status == 1 and "iter:" not in out
    assert text.format(folder) in err and err.count("\n") == 1


def test_train_resumes_with_the_same_annotations_alone(done, capfd, tiny_data):
    words, _, folder = done
    status = main(["train", part(tiny_data, "val"), *words[1:], "--resume"])
    _, err = capfd.readouterr()
    assert status == 1 and "DATA has other annotations than those that the training in" in err


def test_train_resumes_with_val_as_before(done, capfd, tiny_data):
    words, _, folder = done
    words = [part(tiny_data, "train"), "--output", str(folder), "--resume"]
    assert main(["train", *words]) == 1
    assert "the part to evaluate on has other annotations than those" in capfd.readouterr().err


def test_train_resumes_no_training_of_others(train, tmp_path, tiny_data, model_file):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    words = [part(tiny_data, "train"), "--model", model_file, "--output", tmp_path, "--resume"]
    status, _, err = train(*words)
    assert status == 1 and "did not begin (no recipe.json)" in err


def test_dry_run_prints_the_recipe_and_writes_nothing(done, train, tmp_path, tiny_data):
    words, expected, _ = done
    status, out, err = train(*words[:-1], tmp_path / "out", "--dry-run")
    assert status == 0 and not (tmp_path / "out").exists()
    table = [line for line in expected.splitlines() if line.startswith("  SOLVER.")]
    assert len(table) > 8
    memory = re.compile(r"about .* at hand")
    plain = memory.sub("", out)
    assert [line for line in table if memory.sub("", line) not in plain] == []
    assert out.rstrip().endswith("nothing was trained or written")


def test_images_to_predict_are_held_out(tmp_path):
    """Their folder, unless images to train on are in it, or images in folders of their own."""
    for name in ("train", "val"):
        (tmp_path / name / "c").mkdir(parents=True)
    (tmp_path / "val" / "c.png").touch()
    json_file = tmp_path / "val.json"
    json_file.write_text(json.dumps({"images": [{"file_name": "c.png"}, {"file_name": "d.png"}]}))
    folders = [str(tmp_path / name) for name in ("train", "val")]
    triples = [("a", "", folders[0]), ("b", str(json_file), folders[1])]
    assert images_to_predict(triples) == folders[1]
    triples[0] = ("a", "", f"{folders[1]}/")
    assert images_to_predict(triples) == str(tmp_path / "val" / "c.png")
    triples[0] = ("a", "", folders[0])
    (tmp_path / "val" / "c.png").rename(tmp_path / "val" / "c" / "c.png")
    json_file.write_text(json.dumps({"images": [{"file_name": "c/c.png"}]}))
    assert images_to_predict(triples) == str(tmp_path / "val" / "c" / "c.png")


def test_train_says_which_images_it_would_hold_out(train, tmp_path, tiny_data, model_file):
    words = [part(tiny_data, "train"), "--model", model_file, "--output", tmp_path / "out"]
    status, out, err = train(*words, "--dry-run")
    assert status == 0, err
    (note,) = [
        line for line in out.splitlines() if line.startswith("note: held out: 1 of 6 images")
    ]
    assert note.rpartition(": ")[2] in {
        path.name for path in Path(words[0].rpartition(":")[2]).iterdir()
    }


def test_train_on_one_image_evaluates_on_it_and_says_so(train, tmp_path, tiny_data, model_file):
    json_file, _, folder = part(tiny_data, "train").rpartition(":")
    content = json.loads(Path(json_file).read_text())
    first = content["images"][0]["id"]
    content["images"] = content["images"][:1]
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] == first]
    (tmp_path / "one.json").write_text(json.dumps(content))
    data = f"{tmp_path / 'one.json'}:{folder}"
    status, out, _ = train(data, "--model", model_file, "--output", tmp_path / "o", "--dry-run")
    assert status == 0 and "none of the 1 image can be held out" in out
    assert "1 image to train on with" in out and "none held out" in out


def without(coco, what):
    if what == "objects":
        coco["annotations"] = []
    elif what == "a category":
        coco["annotations"][0]["category_id"] = 99
    return coco


@pytest.mark.parametrize(
    "broken, what, text",
    [
        ("train", "objects", "1 error in the data, see above; `queryinst data check"),
        ("val", "objects", "has no objects, so nothing could be measured"),
        ("train", "a category", "1 error in the data, see above; `queryinst data check"),
    ],
)
def test_train_refuses_data_that_cannot_work(
    train, tmp_path, tiny_data, model_file, broken, what, text
):
    parts = {name: part(tiny_data, name) for name in ("train", "val")}
    json_file, _, folder = parts[broken].rpartition(":")
    content = without(json.loads(Path(json_file).read_text()), what)
    (tmp_path / "x.json").write_text(json.dumps(content))
    parts[broken] = f"{tmp_path / 'x.json'}:{folder}"
    words = [parts["train"], "--val", parts["val"], "--model", model_file]
    status, out, err = train(*words, "--output", tmp_path / "out")
    assert status == 1 and text in err and err.count("\n") == 1
    assert not (tmp_path / "out" / "config.yaml").exists()


@pytest.mark.parametrize(
    "words, text",
    [
        (["--model", "R_51"], "no model 'R_51'"),
        (["--model", "model.onnx"], "model.onnx is an exported model, which cannot be trained"),
        (["--device", "cuda:99"], "torch finds no GPU"),
        (["--opts", "OUTPUT_DIR", "x"], "--opts OUTPUT_DIR is set by --output"),
        (["--opts", "SOLVER.BASE_LR", "-1.0"], "set SOLVER.BASE_LR"),
        (["--opts", "MODEL.ROI_HEADS.NUM_CLASSES", "7"], "is set by the categories of DATA"),
        (
            ["--model", "none", "--dry-run", "--opts", "TEST.BEST_METRIC", "segm/AP5"],
            "TEST.BEST_METRIC 'segm/AP5' is no metric of the data set",
        ),
        (["--opts", "WRITERS", "('wandb',)"], "WRITERS names 'wandb', whose package cannot be"),
        (["--val", "nowhere"], "nowhere is neither a folder nor"),
    ],
)
@pytest.mark.usefixtures("without_gpu")
def test_train_says_what_is_wrong_with_options(
    tmp_path, monkeypatch, tiny_data, capfd, words, text
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "model.onnx").touch()
    status = main(["train", str(tiny_data.root / "shapes"), "--output", "out", *words])
    out, err = capfd.readouterr()
    assert status == 1 and text in err and err.count("\n") == 1
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_train_refuses_a_folder_in_use(train, tmp_path, tiny_data, model_file):
    words = [tiny_data.root / "shapes", "--model", model_file, "--output", tmp_path]
    with locked(str(tmp_path)):
        status, _, err = train(*words)
    assert status == 1 and "is in use by process" in err and err.count("\n") == 1
