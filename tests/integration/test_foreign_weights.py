"""Evaluation, training and the demo from a file in MMDetection's layout, as from one of ours."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from queryinst.checkpoint.files import write_checkpoint
from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.demo import main as demo
from queryinst.engine import main, setup_cfg

# A high prior, so that random weights find something.
PRIOR = ("MODEL.QUERYINST.PRIOR_PROB", 0.75)


@pytest.fixture
def files(make_args, tmp_path):
    """The same weights in three files, one with the class names that the demo gives without any."""
    args = make_args("MODEL.DEVICE", "cpu", *PRIOR)
    torch.manual_seed(0)
    state = build_model(setup_cfg(args.config_file, args.opts)).state_dict()
    for name, value in state.items():
        if name.endswith("box_deltas.weight"):
            value *= 0.1  # boxes of random weights may lie outside of the image
    theirs = to_mmdet_state_dict(state)
    contents = {
        "ours.pth": {"model": state},
        "theirs.pth": {
            "meta": {"CLASSES": ("class 0", "class 1", "class 2")},
            "state_dict": theirs,
        },
        "theirs.safetensors": {"model": theirs},
    }
    for name, content in contents.items():
        write_checkpoint(str(tmp_path / name), content)
    return [str(tmp_path / name) for name in contents]


def test_main_evaluates_foreign_weights_with_the_same_predictions(make_args, files, tmp_path):
    predictions = []
    for path in files:
        opts = ("DATASETS.TEST", "('tiny_val',)", "MODEL.WEIGHTS", path, "MODEL.DEVICE", "cpu")
        main(make_args(*opts, eval_only=True))
        results = tmp_path / "output/inference/tiny_val/coco_instances_results.json"
        predictions.append(json.loads(results.read_text()))
    assert len(predictions[0]) > 0 and predictions[0] == predictions[1] == predictions[2]


def test_main_trains_from_foreign_weights(make_args, files, tmp_path):
    opts = ("MODEL.WEIGHTS", files[1], "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 1e-12)
    main(make_args(*opts, "SOLVER.MAX_ITER", 1))
    trained = torch.load(tmp_path / "output/model_final.pth", weights_only=True)["model"]
    before = torch.load(files[0], weights_only=True)["model"]
    assert trained.keys() == before.keys()
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # follow the batch
    for name, value in before.items():
        if not name.endswith(statistics):
            torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-9)


def test_demo_draws_the_same_from_foreign_weights(make_args, files, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    drawn = []
    for at, path in enumerate(files):
        config = make_args().config_file
        options = ["--config-file", config, "--input", str(tmp_path / "in.png")]
        np.random.seed(0)  # of the colours
        options += ["--output", str(tmp_path / f"{at}.png"), "--confidence-threshold", "0.1"]
        assert demo([*options, "--opts", "MODEL.WEIGHTS", path, "MODEL.DEVICE", "cpu"]) == 0
        drawn.append(np.asarray(Image.open(tmp_path / f"{at}.png")))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] == drawn[2]).all()
