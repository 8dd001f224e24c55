"""The images of a batch, predicted one after the other or together."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

from queryinst.modeling.meta_arch import whole_batch
from queryinst.speedups.one_by_one import OneByOne
from queryinst.testing import random_batch, tiny_cfg


@pytest.mark.parametrize("sizes", [[(60, 90), (64, 50), (33, 96)], [(64, 96)], []])
def test_OneByOne_keeps_each_image_padded_as_the_batch_is(sizes):
    images = ImageList(torch.randn(len(sizes), 3, 64, 96), sizes)
    parts = OneByOne(pytest.fail)(images)
    assert [part.image_sizes for part in parts] == [[size] for size in sizes]
    for index, part in enumerate(parts):
        assert torch.equal(part.tensor, images.tensor[index : index + 1])


def test_OneByOne_leaves_other_devices_alone():
    images = ImageList(torch.empty(2, 3, 64, 96, device="meta"), [(64, 96)] * 2)
    assert OneByOne(whole_batch)(images) == [images]


@pytest.mark.parametrize("names, expected", [((), [3]), (("one_by_one",), [1, 1, 1])])
@torch.no_grad()
def test_apply_to_model_runs_the_backbone_once_for_each_image(names, expected):
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=names)).eval()
    batches = []
    model.backbone.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    assert len(model(random_batch((0, 0, 0)))) == 3
    assert batches == expected
