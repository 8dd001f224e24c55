import json

import pytest
import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils.events import EventStorage

from queryinst.build import build_queryinst
from queryinst.data.mapper import build_mapper
from queryinst.engine import main, setup_cfg
from queryinst.engine.validation_loss import validation_loss


@pytest.fixture
def cfg(make_args):
    args = make_args("DATASETS.TEST", "('tiny_val',)", "MODEL.QUERYINST.DROPOUT", 0.5)
    return setup_cfg(args.config_file, args.opts)


def test_validation_loss_is_the_mean_over_the_images(cfg):
    """By hand: each image as a batch, without dropout, batch norms with running statistics."""
    torch.manual_seed(0)
    model = build_queryinst(cfg).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    losses = validation_loss(cfg, model)
    drawn = torch.rand(3)
    assert model.training and all(x.training for x in model.mask_head.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
    assert validation_loss(cfg, model) == losses
    mapper = build_mapper(cfg, is_train=False, with_instances=True)
    images = [x for x, in build_detection_test_loader(cfg, "tiny_val", mapper=mapper)]
    assert len(images) == 4 and all(len(x["instances"]) for x in images)
    model.eval()
    model.training = True  # the way of the losses, with all parts as in evaluation
    with torch.no_grad(), EventStorage():
        each = [model([x]) for x in images]
    expected = {f"val_{name}": sum(float(x[name]) for x in each) / 4 for name in each[0]}
    assert losses.pop("val_total_loss") == pytest.approx(sum(expected.values()))
    assert losses == pytest.approx(expected)


def test_validation_loss_draws_the_same_noise_each_time(cfg):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.DENOISING_GROUPS = 2
    model = build_queryinst(cfg).train()
    first = validation_loss(cfg, model)
    torch.rand(5)
    assert validation_loss(cfg, model) == first and any("denoising" in x for x in first)


def test_validation_loss_goes_to_the_metrics_and_not_to_the_progress(make_args, tmp_path):
    opts = ("DATASETS.TEST", "('tiny_val',)", "TEST.VALIDATION_LOSS", True)
    main(make_args(*opts))
    output = tmp_path / "output"
    lines = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    stages = [
        f"val_loss_{x}_stage{i}" for x in ("cls", "mask", "box_l1", "box_giou") for i in (0, 1)
    ]
    assert sum(lines[-1][x] for x in stages) == pytest.approx(lines[-1]["val_total_loss"])
    log = (output / "log.txt").read_text()
    assert "Validation loss of 'tiny_val': " in log and "val_" not in log.split("iter: ")[1]
    with pytest.raises(ValueError, match="TEST.VALIDATION_LOSS True needs a data set"):
        main(make_args(*opts, "DATASETS.TEST", "()"))
