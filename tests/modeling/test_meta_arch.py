"""QueryInst as a whole: its input, its keys, its precision."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.utils.events import EventStorage
from torch import nn

import queryinst
from queryinst.modeling import QueryInst
from queryinst.testing import random_batch, tiny_cfg


def make(**overrides) -> nn.Module:
    torch.manual_seed(0)
    return QueryInst(tiny_cfg(**overrides))


def train_losses(model, batch) -> dict:
    with EventStorage(0):
        return model.train()(batch)


def test_build_model_builds_a_queryinst_of_the_same_parameters():
    torch.manual_seed(0)
    model = build_model(tiny_cfg())
    assert isinstance(model, queryinst.QueryInst)
    plain = make().state_dict()
    built = model.state_dict()
    assert list(built) == list(plain)
    assert all(torch.equal(built[name], value) for name, value in plain.items())


class StrictBackbone(Backbone):
    """p2-p5 by pooling, for images whose sides are multiples of 48, or squares."""

    def __init__(self, square: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 4, 4)
        self.square = square
        self.seen: list[tuple] = []

    def forward(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        x = self.conv(x)
        features = {}
        for level in range(2, 6):
            features[f"p{level}"] = x
            x = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        return features

    def output_shape(self):
        return {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}

    @property
    def size_divisibility(self):
        return 48

    @property
    def padding_constraints(self):
        return {"square_size": self.square}


@pytest.mark.parametrize("square, expected", [(0, (96, 144)), (160, (192, 192))])
def test_pad_images_does_what_the_backbone_asks(square, expected):
    name = f"build_strict_backbone_{square}_for_tests"
    if name not in BACKBONE_REGISTRY:

        def build(cfg, input_shape):
            return StrictBackbone(square)

        build.__name__ = name
        BACKBONE_REGISTRY.register(build)
    model = make(MODEL__BACKBONE__NAME=name)
    batch = random_batch((1,), 96, 100) + random_batch((2,), 60, 97)
    losses = train_losses(model, batch)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        predictions = model.eval()(batch)
    assert model.backbone.seen == [expected] * 2  # in training, then in prediction
    assert [x["instances"].image_size for x in predictions] == [(96, 100), (60, 97)]


def test_preprocess_image_normalizes_then_pads_with_zeros():
    model = make()
    batch = random_batch((0,), 40, 33) + random_batch((0,), 20, 64, seed=1)
    images = model.preprocess_image(batch)
    assert images.tensor.shape == (2, 3, 64, 64)
    assert [tuple(size) for size in images.image_sizes] == [(40, 33), (20, 64)]
    for x, padded in zip(batch, images.tensor):
        _, height, width = x["image"].shape
        for channel, (mean, std) in enumerate(
            [(123.675, 58.395), (116.28, 57.12), (103.53, 57.375)]
        ):
            expected = torch.zeros(64, 64)
            expected[:height, :width] = (x["image"][channel].float() - mean) / std
            torch.testing.assert_close(padded[channel], expected)


def test_queryinst_in_float64():
    model = make().double()
    batch = random_batch((2, 3))
    losses = train_losses(model, batch)
    assert {loss.dtype for loss in losses.values()} == {torch.float64}
    sum(losses.values()).backward()
    with torch.no_grad():
        (instances,) = model.eval().inference(batch[:1], do_postprocess=False)
        final = model(batch[:1])[0]["instances"]
    for actual in (instances, final):
        assert actual.pred_boxes.tensor.dtype == actual.scores.dtype == torch.float64
    assert instances.pred_masks.dtype == torch.float64
    # the same weights in float32 agree to its precision: a cast on the way would as well,
    # but 1e-9 of a change would not come through
    model.initial_queries.boxes_cxcywh_norm.data *= 1 + 1e-10
    with torch.no_grad():
        (moved,) = model.inference(batch[:1], do_postprocess=False)
    change = (moved.pred_boxes.tensor - instances.pred_boxes.tensor).abs().max().item()
    assert 0 < change < 1e-4


def test_queryinst_agrees_in_float32_and_float64():
    batch = random_batch((2, 3))
    model = make()
    single = train_losses(model, batch)
    for name, loss in train_losses(model.double(), batch).items():
        assert loss.item() == pytest.approx(single[name].item(), rel=1e-3), name


def test_queryinst_under_autocast_keeps_losses_and_boxes_in_float32():
    model = make()
    batch = random_batch((2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        losses = train_losses(model, batch)
        sum(losses.values()).backward()
        with torch.no_grad():
            (instances,) = model.eval().inference(batch[:1], do_postprocess=False)
            final = model(batch[:1])[0]["instances"]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert instances.pred_boxes.tensor.dtype == instances.scores.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert final.pred_masks.dtype == torch.bool


def test_queryinst_without_masks_has_no_mask_parameters():
    model = make(MODEL__MASK_ON=False)
    names = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    assert names and not any("mask" in name for name in names)
    batch = random_batch((2, 0))
    for x in batch:
        x["instances"].remove("gt_masks")
    losses = train_losses(model, batch)
    assert not any("mask" in name for name in losses) and len(losses) == 6
    with torch.no_grad():
        instances = model.eval().inference(batch, do_postprocess=False)[0]
        final = model(batch)[0]["instances"]
        core = model.forward_core(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
    assert not instances.has("pred_masks") and len(instances) == 18 and len(core) == 4
    assert not final.has("pred_masks") and 0 < len(final) <= 18


def test_queryinst_refuses_instances_without_masks():
    batch = random_batch((2, 0))
    for x in batch:
        x["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="2 instances have no masks.*MODEL.MASK_ON False"):
        train_losses(make(), batch)
    losses = train_losses(make(), batch[1:])  # nothing is missing from an image without instances
    assert losses["loss_mask_stage0"] == 0


@pytest.mark.parametrize("instances", ["absent", None])
def test_queryinst_in_training_mode_says_that_it_needs_instances(instances):
    batch = random_batch((1, 1))
    batch[1].pop("instances")
    if instances != "absent":
        batch[1]["instances"] = instances
    message = "in training mode, which needs 'instances'.* image 1 of its batch has none; call mo"
    with pytest.raises(ValueError, match=message):
        train_losses(make(), batch)
    with pytest.raises(ValueError, match="in training mode.* its batch is empty; call model.eval"):
        train_losses(make(), [])


@pytest.mark.parametrize("speedups", [(), ("auto",)])
def test_queryinst_predicts_nothing_for_no_image(speedups):
    model = make(MODEL__QUERYINST__SPEEDUPS=speedups).eval()
    assert model([]) == model.inference([]) == model.inference([], do_postprocess=False) == []


def test_queryinst_names_stage_and_image_of_what_is_not_finite():
    batch = random_batch((1, 2))
    batch[1]["image"] = batch[1]["image"].float()
    batch[1]["image"][0, 5, 5] = float("nan")
    with pytest.raises(FloatingPointError, match="stage 0, image 1: .* not finite"):
        train_losses(make(), batch)


def test_queryinst_puts_the_number_of_matches_into_the_event_storage():
    with EventStorage(0) as storage:
        make(MODEL__QUERYINST__NUM_QUERIES=2).train()(random_batch((1, 3)))
    assert storage.latest()["queryinst/num_matched"][0] == 1 + 2


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("TEST__DETECTIONS_PER_IMAGE", 0, "0 must be >= 1; set TEST.DETECTIONS_PER_IMAGE"),
        ("MODEL__PIXEL_STD", (1.0, 1.0), "must hold 3 values .*; set MODEL.PIXEL_STD"),
        ("MODEL__QUERYINST__NUM_QUERIES", 0, "0 must be >= 1; set MODEL.QUERYINST.NUM_QUERIES"),
        ("MODEL__QUERYINST__NUM_STAGES", 0, "0 must be >= 1; set MODEL.QUERYINST.NUM_STAGES"),
        ("MODEL__QUERYINST__NUM_HEADS", 5, "16 channels .* 5 heads; .*EMBED_DIM or .*NUM_HEADS"),
        ("MODEL__QUERYINST__EMBED_DIM", 8, "EMBED_DIM is 8; .*MODEL.FPN.OUT_CHANNELS"),
        ("MODEL__ROI_HEADS__NUM_CLASSES", 0, "0 must be >= 1; set MODEL.ROI_HEADS.NUM_CLASSES"),
        (
            "MODEL__ROI_MASK_HEAD__NORM",
            "GN",
            r"'GN' takes multiples of 32 channels, \[16\]; set MODEL.ROI_MASK_HEAD.NORM",
        ),
    ],
)
def test_queryinst_names_impossible_keys_in_one_line(key, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(tiny_cfg(**{key: value}))
    assert "\n" not in str(caught.value)
