"""Each speed-up alone, and all of them, against the plain model: the same in all that it gives."""

import copy
from functools import cache

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from queryinst.modeling import QueryInst
from queryinst.speedups import SPEEDUPS, speed_up_model, sync_free_pooling
from queryinst.testing import random_batch, tiny_cfg

NAMES = [row.name for row in SPEEDUPS]
ALL = tuple(NAMES)

# What proves that a row takes part: functions that do its work, in a training step and in
# prediction. malloc changes no model.
IN_TRAINING = {
    "channels_last": ["channels_last._levels_channels_last"],
    "fold_norms": ["conv2d.folded"],
    "conv2d_im2col": ["conv2d_im2col.conv2d_im2col"],
    "winograd": ["winograd.convolve_3x3", "winograd.weight_gradient", "winograd.input_gradient"],
    "conv2d_weight_grad": ["conv2d_weight_grad.weight_gradient"],
    "roi_align_bag": ["roi_bags.pool_bags", "roi_bags._CollectGradients.backward"],
    "sync_free_pooling": ["sync_free_pooling.SyncFreePooling.__call__"],
}
IN_PREDICTION = {
    "channels_last": ["channels_last._levels_channels_last"],
    "fold_norms": ["conv2d.folded"],
    "conv2d_im2col": ["conv2d_im2col.conv2d_im2col"],
    "winograd": ["winograd.convolve_3x3"],
    "roi_align_bag": ["roi_bags.pool_bags"],
    "lazy_fpn": ["lazy_fpn.pool_before_convolution"],
    "separable_paste": ["separable_paste.paste_separably"],
    "one_by_one": ["one_by_one.OneByOne.__call__"],
    "sync_free_pooling": ["sync_free_pooling.SyncFreePooling.__call__"],
}
# These work on feature maps with channels innermost alone.
NEED_CHANNELS_LAST = ("conv2d_im2col", "winograd", "conv2d_weight_grad")

GN = {"MODEL__ROI_MASK_HEAD__NORM": "GN", "MODEL__ROI_MASK_HEAD__CONV_DIM": 32}
# dtype, instances of each image, sizes of the images, configuration
CASES = {
    "images of different odd sizes": (
        torch.float64, (2, 1), [(64, 95), (75, 61)], {},
    ),
    "an image without instances, and more instances than queries": (
        torch.float64, (0, 9), [(64, 96), (64, 96)],
        {"MODEL__QUERYINST__NUM_QUERIES": 4, "MODEL__BACKBONE__NORM_EVAL": False, **GN},
    ),
    "no instance and no detection, one image, query and class": (
        torch.float64, (0,), [(61, 33)],
        {"MODEL__QUERYINST__NUM_QUERIES": 1, "MODEL__ROI_HEADS__NUM_CLASSES": 1,
         "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 1.0, "MODEL__BACKBONE__FREEZE_AT": 0},
    ),
    "single precision": (torch.float32, (2,), [(75, 61)], {}),
    "boxes alone, in single precision": (
        torch.float32, (1, 2), [(64, 96), (33, 50)], {"MODEL__MASK_ON": False},
    ),
    "denoising and NMS": (
        torch.float64, (2, 1), [(64, 96), (33, 50)], {
            "MODEL__QUERYINST__DENOISING_GROUPS": 2, "MODEL__QUERYINST__NMS_THRESH_TEST": 0.5,
        },
    ),
}  # fmt: skip


@cache
def plain_model(case: str) -> QueryInst:
    """Not to be changed: each test gets copies. Its norms have statistics, its boxes sizes."""
    dtype, _, _, overrides = CASES[case]
    torch.manual_seed(0)
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=(), **overrides))
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # most begin as zeros
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        boxes = model.initial_queries.boxes_cxcywh_norm
        boxes.copy_(torch.rand_like(boxes) * 0.6 + 0.1)
        boxes[:, 2:] *= torch.linspace(0.3, 1.2, len(boxes))[:, None]
    return model.to(dtype)


def make_batch(case: str) -> list[dict]:
    """Predictions are wanted larger than the images, and smaller."""
    _, nums, sizes, overrides = CASES[case]
    num_classes = overrides.get("MODEL__ROI_HEADS__NUM_CLASSES", 3)
    batch = []
    for index, (num, size) in enumerate(zip(nums, sizes)):
        (x,) = random_batch((num,), *size, num_classes=num_classes, seed=index)
        batch.append(x | {"height": size[0] + 20, "width": size[1] - 7})
    return batch


def train(model: QueryInst, batch: list[dict]) -> dict[str, Tensor]:
    """Losses, gradients and buffers after a step."""
    model.train()
    torch.manual_seed(2)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    grads = {f"grad of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses | grads | {name: x.clone() for name, x in model.named_buffers()}


@torch.no_grad()
def predict(model: QueryInst, batch: list[dict]) -> dict[str, Tensor]:
    """All fields of the detections of each image, pasted masks too."""
    fields = {}
    for image, output in enumerate(model.eval()(batch)):
        for name, value in output["instances"].get_fields().items():
            fields[f"{name} of image {image}"] = value.tensor if "boxes" in name else value
    return fields


@cache
def plain_results(case: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model, batch = copy.deepcopy(plain_model(case)), make_batch(case)
    return train(model, batch), predict(model, batch)


def speed_up(case: str, names: tuple[str, ...]) -> QueryInst:
    model = copy.deepcopy(plain_model(case))
    speed_up_model(model, names)
    return model


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        value = ours[name]
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        if expected.dtype == torch.float32 and name.startswith("grad of "):
            # Rounding may turn a ReLU on or off, which changes a few elements by more.
            assert (value - expected).norm() <= 0.02 * expected.norm().clamp(min=1e-3), name
        elif expected.is_floating_point():
            tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-3
            scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
            torch.testing.assert_close(
                value, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-3), msg=name
            )
        elif expected.dtype == torch.bool and value.numel():  # but for rounding at 0.5 exactly
            assert (value != expected).double().mean() <= 1e-4, name
        else:
            assert torch.equal(value, expected), name


IN_MODELS = [name for name in NAMES if name in IN_TRAINING or name in IN_PREDICTION]
SETS = [*((name,) for name in IN_MODELS), ALL, ("auto",)]


def test_all_speedups_are_held_against_the_plain_model():
    assert set(NAMES) - set(IN_MODELS) == {"malloc"}, "test_malloc"
    numbers = [len(plain_results(case)[1]["scores of image 0"]) for case in CASES]
    assert [num > 0 for num in numbers] == [True, True, False, True, True, True]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", SETS, ids=lambda names: names[0] if len(names) == 1 else "all")
def test_speed_up_model_keeps_losses_gradients_statistics_and_detections(
    names, case, entries, small_ones_too, monkeypatch
):
    if names == ("sync_free_pooling",):  # here, where nothing has to wait
        monkeypatch.setattr(sync_free_pooling, "has_to_wait", lambda device: True)
    proving = set(names) & set(NAMES)
    needs = ("channels_last",) if proving & set(NEED_CHANNELS_LAST) else ()
    model, batch = speed_up(case, (*needs, *names)), make_batch(case)
    with entries() as in_training:
        trained = train(model, batch)
    with entries() as in_prediction:
        predicted = predict(model, batch)
    expected_training, expected_prediction = plain_results(case)
    assert_same(trained, expected_training)
    assert_same(predicted, expected_prediction)
    for counts, proofs in ((in_training, IN_TRAINING), (in_prediction, IN_PREDICTION)):
        wanted = [name for row in proving for name in proofs.get(row, []) if applies(name, case)]
        assert [name for name in wanted if counts[name] == 0] == []


def applies(function: str, case: str) -> bool:
    """Whether a case has work for a function."""
    _, _, _, overrides = CASES[case]
    return not (
        function.startswith("separable_paste.") and not overrides.get("MODEL__MASK_ON", True)
    )


PREDICTED = "images of different odd sizes"


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), ALL])
def test_speed_up_model_keeps_the_state_dict(names):
    ours, theirs = speed_up(PREDICTED, names).state_dict(), plain_model(PREDICTED).state_dict()
    assert list(ours) == list(theirs)
    assert all(value.equal(theirs[name]) for name, value in ours.items())
    assert all(value.shape == theirs[name].shape for name, value in ours.items())


@pytest.mark.parametrize("saved, loaded", [((), ALL), (ALL, ())])
def test_speed_up_model_keeps_checkpoints(saved, loaded, tmp_path, small_ones_too):
    torch.save(speed_up(PREDICTED, saved).state_dict(), tmp_path / "model.pth")
    torch.manual_seed(1)
    model = build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=loaded)).double()
    model.load_state_dict(torch.load(tmp_path / "model.pth"), strict=True)
    batch = make_batch(PREDICTED)
    assert_same(predict(model, batch), predict(copy.deepcopy(plain_model(PREDICTED)), batch))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("checkpointing", [(), ("backbone", "box_heads", "mask_heads")])
def test_speed_up_model_gives_a_model_that_can_be_copied(
    how, checkpointing, tmp_path, entries, small_ones_too
):
    cfg = tiny_cfg(
        MODEL__QUERYINST__SPEEDUPS=ALL, MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=checkpointing
    )
    model = build_model(cfg).double()
    model.load_state_dict(plain_model(PREDICTED).state_dict())
    batch = make_batch(PREDICTED)
    expected = predict(model, batch)
    if how == "deepcopy":
        copied = copy.deepcopy(model)
    else:
        torch.save(model, tmp_path / "model.pth")
        copied = torch.load(tmp_path / "model.pth", weights_only=False)
    with torch.no_grad():  # what the copy does must not depend on it
        for value in model.parameters():
            value.zero_()
    with entries() as counts:
        ours = predict(copied, batch)
    assert list(ours) == list(expected)
    assert all(value.equal(expected[name]) for name, value in ours.items())
    proofs = [name for row in NAMES for name in IN_PREDICTION.get(row, [])]
    assert [name for name in proofs if counts[name] == 0] == []
    assert_same(train(copied, batch), plain_results(PREDICTED)[0])


@pytest.mark.parametrize("build", [QueryInst, build_model])
def test_SPEEDUPS_empty_is_a_model_that_enters_no_line_of_this_folder(build, entries):
    plain, fast = (build(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=names)) for names in ((), ALL))
    if build is QueryInst:
        speed_up_model(fast, ALL)
    batch = random_batch((2, 1))
    for run in (train, predict):
        with entries() as counts:
            run(plain, batch)
        assert counts == {}
        with entries() as counts:
            run(fast, batch)
        assert len(counts) > 10, "which proves nothing of the plain model"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_speed_up_model_keeps_losses_and_detections_where_nothing_learns(mode, small_ones_too):
    batch, results = make_batch(PREDICTED), []
    for names in ((), ALL):
        model = speed_up(PREDICTED, names)
        with mode(), EventStorage():
            results.append(predict(model, batch) | model.train()(batch))
    assert_same(*reversed(results))


def only_biases_learn(model: QueryInst) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


def weights_channels_last(model: QueryInst) -> None:
    model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("change", [only_biases_learn, weights_channels_last])
@pytest.mark.parametrize("before", [True, False])
def test_speed_up_model_keeps_changed_models(change, before, small_ones_too):
    """Whether they are changed before or after."""
    batch, results = make_batch(PREDICTED), []
    for names in ((), ALL):
        model = copy.deepcopy(plain_model(PREDICTED))
        for step in (change, None) if before else (None, change):
            speed_up_model(model, names) if step is None else step(model)
        results.append(train(model, batch))
    assert_same(*reversed(results))
