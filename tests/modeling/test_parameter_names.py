"""Parameter names, shapes and what is trained: checkpoints and users' code rely on them.

``parameter_names.txt`` lists all of the full R-50 model. After a deliberate change, write it anew:

    python tests/modeling/test_parameter_names.py > tests/modeling/parameter_names.txt
"""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst import add_queryinst_config
from queryinst.testing import random_batch, tiny_cfg

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
R_50 = "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml"
LIST = Path(__file__).with_name("parameter_names.txt")


def load(name: str) -> CfgNode:
    cfg = get_cfg()
    add_queryinst_config(cfg)
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def build_without_memory(name: str) -> nn.Module:
    """The model of a yaml file, full size, without storage for its weights."""
    cfg = load(name)
    with torch.device("meta"):
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def describe(model: nn.Module) -> list[str]:
    """One line for each entry of the state dict: name, shape and what training does with it."""
    params = dict(model.named_parameters())
    lines = []
    for name, value in model.state_dict().items():
        kind = "trained" if name in params and params[name].requires_grad else "constant"
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            kind = "statistics"
        lines.append(f"{name} {tuple(value.shape)} {kind}")
    return lines


def test_state_dict_has_the_listed_names_shapes_and_what_is_trained():
    actual, expected = describe(build_without_memory(R_50)), LIST.read_text().splitlines()
    assert sorted(set(expected) - set(actual)) == [], "in the list only"
    assert sorted(set(actual) - set(expected)) == [], "in the model only"
    assert len(actual) == len(set(actual)) == len(expected)


def test_queryinst_has_the_size_of_the_reference():
    model = build_without_memory(R_50)
    # Detectron2 makes the affine weights of frozen norms buffers, mmdet parameters.
    frozen = [b for name, b in model.named_buffers() if name.endswith((".weight", ".bias"))]
    total = sum(value.numel() for value in [*model.parameters(), *frozen])
    assert round(total / 1e6, 2) == 172.69


@pytest.mark.parametrize("name", NAMES)
def test_queryinst_builds_from_every_yaml(name):
    cfg, model = load(name), build_without_memory(name)
    queryinst, num_classes = cfg.MODEL.QUERYINST, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    shape = (queryinst.NUM_QUERIES, queryinst.EMBED_DIM)
    assert state["initial_queries.query_feats"] == shape
    last = queryinst.NUM_STAGES - 1
    assert state[f"cascade.stages.{last}.cls_logits.weight"] == (num_classes, queryinst.EMBED_DIM)
    assert f"cascade.stages.{last + 1}.cls_logits.weight" not in state
    assert state[f"mask_head.stages.{last}.mask_logits.bias"] == (num_classes,)
    blocks = {18: 2, 50: 6, 101: 23}[cfg.MODEL.RESNETS.DEPTH]
    assert f"backbone.bottom_up.res4.{blocks - 1}.conv1.weight" in state
    assert f"backbone.bottom_up.res4.{blocks}.conv1.weight" not in state


@pytest.mark.parametrize(
    "name",
    [
        "quick_schedules/queryinst_R_50_FPN_instant_test.yaml",
        "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml",
    ],
)
def test_queryinst_of_small_configurations_predicts_their_classes(name):
    torch.manual_seed(0)
    model = build_model(load(name)).eval()
    model.score_threshold = 0.0  # what random weights are unsure of, too
    with torch.no_grad():
        instances = model(random_batch((0,)))[0]["instances"]
    assert 0 < len(instances) <= 100
    assert instances.pred_masks.shape[1:] == (64, 96)
    assert set(instances.pred_classes.tolist()) <= {0, 1, 2}


def train_once(**overrides) -> tuple[nn.Module, dict, dict]:
    """The model after one forward and backward pass, its buffers before and after."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(**overrides)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with EventStorage(0):
        sum(model(random_batch((2, 3))).values()).backward()
    return model, before, dict(model.named_buffers())


def stages_with_gradient(model: nn.Module) -> set[str]:
    bottom_up = model.backbone.bottom_up
    return {name.split(".")[0] for name, p in bottom_up.named_parameters() if p.grad is not None}


def moved_statistics(before: dict, after: dict, prefix: str) -> set[str]:
    names = {name for name in before if name.startswith(prefix) and "running" in name}
    assert names
    return {name for name in names if not torch.equal(before[name], after[name])}


def test_bottom_up_keeps_its_statistics_and_trains_affine_weights_of_res3_to_res5():
    model, before, after = train_once()
    assert stages_with_gradient(model) == {"res3", "res4", "res5"}
    norms = [
        (name, module)
        for name, module in model.backbone.bottom_up.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    assert {name.split(".")[0] for name, _ in norms} == {"res3", "res4", "res5"}
    for name, norm in norms:
        assert not norm.training, name
        assert norm.weight.grad.abs().sum() > 0 and norm.bias.grad.abs().sum() > 0, name
    assert moved_statistics(before, after, "backbone.") == set()
    assert moved_statistics(before, after, "mask_head.")  # plain batch norm
    assert model.training and model.backbone.training


def test_bottom_up_from_random_weights_trains_whole_on_batch_statistics():
    model, before, after = train_once(
        MODEL__BACKBONE__FREEZE_AT=0, MODEL__BACKBONE__NORM_EVAL=False
    )
    assert stages_with_gradient(model) == {"stem", "res2", "res3", "res4", "res5"}
    statistics = {name for name in before if name.startswith("backbone.") and "running" in name}
    assert moved_statistics(before, after, "backbone.") == statistics


if __name__ == "__main__":
    print("\n".join(describe(build_without_memory(R_50))))
