"""A tiny checkpoint, and one file of each format that is exported from it."""

import pytest
import torch
from detectron2.modeling import build_model

import queryinst
from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.export import export
from queryinst.testing import spread_queries, tiny_cfg

SMALL = {
    "MODEL__RESNETS__DEPTH": 18,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
    "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "INPUT__MIN_SIZE_TEST": 64,
    "INPUT__MAX_SIZE_TEST": 96,
}
NAMES = ["ellipse", "triangle", "star"]


def save_checkpoint(folder, **overrides) -> str:
    """A checkpoint of a model whose queries differ, with boxes that overlap."""
    torch.manual_seed(0)
    cfg = tiny_cfg(**SMALL, **overrides)
    model = build_model(cfg)
    spread_queries(model)
    for stage in model.cascade.stages:
        torch.nn.init.normal_(stage.box_deltas.weight, std=0.05)
    meta = {
        **build_meta(cfg, None),
        "thing_classes": NAMES,
        "dataset_id_map": {10: 0, 20: 1, 30: 2},
        "licence": "CC0",
        "attribution": "drawn by a test",
    }
    QueryInstCheckpointer(model, str(folder), meta=meta).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """With non-maximum suppression, which exports differently from what has none."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return save_checkpoint(folder, MODEL__QUERYINST__NMS_THRESH_TEST=0.6)


@pytest.fixture
def make_checkpoint(tmp_path):
    """A function of overrides of the configuration."""
    return lambda **overrides: save_checkpoint(tmp_path, **overrides)


@pytest.fixture(scope="session")
def eager(checkpoint):
    return queryinst.load(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def onnx_report(checkpoint, tmp_path_factory):
    return export(checkpoint, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def torch_report(checkpoint, tmp_path_factory):
    return export(checkpoint, tmp_path_factory.mktemp("torch") / "model.pt2")
