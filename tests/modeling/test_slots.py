"""The slots of the plain model: what is given to a constructor is what runs, and nothing else."""

import sys

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.modeling import QueryInst
from queryinst.modeling.pooler import RoIFeaturePooler, pool_levels, to_rois
from queryinst.testing import random_batch, tiny_cfg


def make(**slots) -> QueryInst:
    torch.manual_seed(0)
    model = QueryInst(tiny_cfg(), **slots).eval()
    for stage in model.cascade.stages:
        stage.box_deltas.weight.data *= 0.05  # boxes stay in the image
    return model


@torch.no_grad()
def test_paste_masks_of_the_constructor_is_called_with_boxes_of_the_users_image():
    calls = []

    def paste(masks, boxes, image_size):
        calls.append((tuple(masks.shape), tuple(boxes.shape), image_size))
        return torch.ones(len(masks), *image_size, dtype=torch.bool)

    batch = random_batch((0, 0))
    batch[1] |= {"height": 32, "width": 24}
    actual = [x["instances"] for x in make(paste_masks=paste)(batch)]
    assert calls == [((18, 28, 28), (18, 4), (64, 96)), ((18, 28, 28), (18, 4), (32, 24))]
    assert all(x.pred_masks.all() for x in actual)


@torch.no_grad()
def test_split_batch_of_the_constructor_decides_what_is_predicted_at_once():
    calls = []

    def split(images):
        calls.append([tuple(size) for size in images.image_sizes])
        first, *others = zip(images.tensor.split(1), images.image_sizes)
        rest = torch.cat([pixels for pixels, _ in others])
        return [ImageList(first[0], [first[1]]), ImageList(rest, [size for _, size in others])]

    batch = [*random_batch((0,), 64, 96), *random_batch((0, 0), 100, 50)]
    model = make(split_batch=split)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    actual = model(batch)
    assert calls == [[(64, 96), (100, 50), (100, 50)]]
    assert seen == [(1, 3, 128, 96), (2, 3, 128, 96)], "with the padding of the batch"
    for ours, whole in zip(actual, make()(batch), strict=True):
        torch.testing.assert_close(ours["instances"].scores, whole["instances"].scores)
        assert ours["instances"].image_size == whole["instances"].image_size


def test_split_batch_is_not_asked_in_training():
    def split(images):
        raise AssertionError("not in training")

    with EventStorage(0):
        losses = make(split_batch=split).train()(random_batch((1, 2)))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("num", [3, 0])
def test_pool_levels_of_the_constructor_pools_all_rois(num):
    calls = []

    def pool(level_poolers, features, rois, levels):
        calls.append((len(level_poolers), rois, levels.tolist()))
        return 2 * pool_levels(level_poolers, features, rois, levels)

    sizes = {"output_size": 3, "sampling_ratio": 2, "pooler_type": "ROIAlignV2"}
    scales = (1 / 4, 1 / 8, 1 / 16)
    features = [torch.rand(2, 5, side, side) for side in (64, 32, 16)]
    boxes = torch.tensor([[0.0, 0, 30, 30], [9, 9, 130, 140], [0, 0, 250, 250]])[:num]
    rois = to_rois(boxes, torch.tensor([0, 1, 1])[:num])
    actual = RoIFeaturePooler(pool_levels=pool, scales=scales, **sizes)(features, rois)
    assert len(calls) == 1 and calls[0][0] == 3
    assert calls[0][1].equal(rois) and calls[0][2] == [0, 1, 2][:num]
    torch.testing.assert_close(actual, 2 * RoIFeaturePooler(scales=scales, **sizes)(features, rois))


def modules_of(model: nn.Module) -> set[str]:
    """The Python modules of all classes and functions that a model is made of."""
    names = set()
    for module in model.modules():
        names |= {cls.__module__ for cls in type(module).__mro__}
        names |= {getattr(x, "__module__", type(x).__module__) for x in vars(module).values()}
        names |= {type(x).__module__ for x in vars(module).values()}
    return names


@pytest.mark.parametrize("checkpointed", [(), ("backbone", "box_heads", "mask_heads")])
def test_queryinst_is_made_of_nothing_from_speedups_and_runs_no_line_of_it(checkpointed):
    torch.manual_seed(0)
    cfg = tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=checkpointed)
    lines: set[str] = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: lines.add(frame.f_globals.get("__name__", "")))
    try:
        model = QueryInst(cfg)
        with EventStorage(0):
            sum(model(random_batch((2, 1))).values()).backward()
        with torch.no_grad():
            model.eval()(random_batch((0,)))
    finally:
        sys.setprofile(before)
    for names in (lines, modules_of(model)):
        assert "queryinst.modeling.meta_arch" in names, "the model itself is seen"
        assert not [name for name in names if name.startswith("queryinst.speedups")]
