"""Each key has its limits in one table; a value outside gives one line before anything is built."""

import time
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler
from torch import nn

from queryinst import model_zoo
from queryinst.config import add_queryinst_config
from queryinst.config_files import default_cfg, merge_file
from queryinst.config_limits import LIMITS, check_limits
from queryinst.engine.checks import check_run
from queryinst.engine.predictor import Predictor
from queryinst.solver import build_optimizer
from queryinst.testing import tiny_cfg
from queryinst.value_limits import Because, Each, Number, OneOf, real, whole

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
NAN, INF = float("nan"), float("inf")
QUERYINST, RESNETS = "MODEL.QUERYINST", "MODEL.RESNETS"
BOX_HEAD, MASK_HEAD = "MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD"


def changed(key, value, **others):
    """The tiny configuration with any value, of any type, as a user of the library may set it."""
    cfg = tiny_cfg(**others)
    section = cfg
    for name in key.split(".")[:-1]:
        section = section[name]
    section[key.split(".")[-1]] = value
    return cfg


def refusal(call, *args, **kwargs):
    with pytest.raises(ValueError) as raised:
        call(*args, **kwargs)
    text = str(raised.value)
    assert text and "\n" not in text and len(text) < 400
    return text


def leaves(cfg, prefix=""):
    keys = set()
    for name, value in cfg.items():
        is_section = isinstance(value, CfgNode)
        keys |= leaves(value, f"{prefix}{name}.") if is_section else {prefix + name}
    return keys


def test_limits_have_a_row_for_every_own_key_and_for_no_other_than_there_are():
    cfg = get_cfg()
    add_queryinst_config(cfg)
    keys, detectron2 = leaves(cfg), leaves(get_cfg())
    assert len(keys - detectron2) > 20
    assert not keys - detectron2 - LIMITS.keys(), "add these to queryinst/config_limits.py"
    assert not LIMITS.keys() - keys


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_check_limits_accepts_the_published_configurations(path):
    cfg = default_cfg()
    merge_file(cfg, str(path), path.name)
    check_limits(cfg)


def test_check_limits_accepts_the_defaults_and_the_tiny_configuration():
    check_limits(default_cfg())
    check_limits(tiny_cfg())


def number_in(limit):
    while limit is not None and not isinstance(limit, Number):
        limit = getattr(limit, "limit", None)
    return limit


NUMBERS = {key: number for key, limit in LIMITS.items() if (number := number_in(limit))}


@pytest.mark.parametrize("key", NUMBERS)
def test_limits_of_numbers_have_both_ends(key):
    """NaN, infinity (but for one), a wrong type, and what fills a machine are refused."""
    limit, number = LIMITS[key], NUMBERS[key]
    wrong = [NAN, -INF, 1e308, -1e308, "1", "", True, (), 10**400]
    wrong += [0.5] if number.is_whole else []
    wrong += [] if number.interval.endswith("inf]") else [INF]
    for value in wrong:
        limit = limit.limit if isinstance(limit, Because) else limit
        many = limit.least or 1 if isinstance(limit, Each) else 0
        assert limit.problem((value,) * many if many else value), value


VALUES = [
    (f"{BOX_HEAD}.BBOX_REG_WEIGHTS", (2.0, 2.0, 1.0), "(2.0, 2.0, 1.0) must hold 4 values"),
    (f"{BOX_HEAD}.BBOX_REG_WEIGHTS", (2.0, 0.0, 1.0, 1.0), "0.0 must be >= 0.001"),
    (f"{BOX_HEAD}.BBOX_REG_WEIGHTS", (2.0, 2.0, 1.0, NAN), "nan must be >= 0.001"),
    (f"{BOX_HEAD}.BBOX_REG_WEIGHTS", 2.0, "2.0 must be a tuple"),
    (f"{BOX_HEAD}.POOLER_RESOLUTION", 0, "0 must be >= 1"),
    (f"{BOX_HEAD}.POOLER_RESOLUTION", 10_000, "10000 must be <= 56"),
    (f"{BOX_HEAD}.POOLER_SAMPLING_RATIO", -1, "-1 must be >= 0"),
    (f"{BOX_HEAD}.POOLER_TYPE", "ROIAlignRotated", "'ROIAlignRotated' must be one of ROIAlignV2"),
    (f"{MASK_HEAD}.NUM_CONV", -1, "-1 must be >= 0"),
    (f"{MASK_HEAD}.NUM_CONV", 1_000_000, "1000000 must be <= 50"),
    (f"{MASK_HEAD}.CONV_DIM", 0, "0 must be >= 1"),
    (f"{MASK_HEAD}.NORM", "BatchNorm", "'BatchNorm' must be one of '', BN"),
    (f"{MASK_HEAD}.NORM", "GN", "norm 'GN' takes multiples of 32 channels, [16]"),
    (f"{MASK_HEAD}.CLS_AGNOSTIC_MASK", "no", "'no' must be one of True, False"),
    (f"{QUERYINST}.NUM_QUERIES", 0, "0 must be >= 1"),
    (f"{QUERYINST}.NUM_QUERIES", -1, "-1 must be >= 1"),
    (f"{QUERYINST}.NUM_QUERIES", 10**9, "1000000000 must be <= 10000"),
    (f"{QUERYINST}.NUM_QUERIES", 5.0, "5.0 must be an integer"),
    (f"{QUERYINST}.NUM_STAGES", 0, "0 must be >= 1"),
    (f"{QUERYINST}.NUM_STAGES", -1, "-1 must be >= 1"),
    (f"{QUERYINST}.NUM_STAGES", 10**6, "1000000 must be <= 50"),
    (f"{QUERYINST}.EMBED_DIM", 0, "0 must be >= 1"),
    (f"{QUERYINST}.NUM_HEADS", 0, "0 must be >= 1"),
    (f"{QUERYINST}.NUM_HEADS", 3, "16 channels must be a multiple of 3 heads"),
    (f"{QUERYINST}.NUM_HEADS", 5, "16 channels must be a multiple of 5 heads"),
    (f"{QUERYINST}.NUM_CLS_FCS", -1, "-1 must be >= 0"),
    (f"{QUERYINST}.NUM_CLS_FCS", 1_000_000, "1000000 must be <= 50"),
    (f"{QUERYINST}.NUM_REG_FCS", -2, "-2 must be >= 0"),
    (f"{QUERYINST}.NUM_REG_FCS", 1_000_000, "1000000 must be <= 50"),
    (f"{QUERYINST}.FFN_DIM", 0, "0 must be >= 1"),
    (f"{QUERYINST}.FFN_DIM", 10**12, "1000000000000 must be <= 65536"),
    (f"{QUERYINST}.DYNAMIC_DIM", -4, "-4 must be >= 1"),
    (f"{QUERYINST}.DROPOUT", 1.0, "1.0 must be < 1"),
    (f"{QUERYINST}.DROPOUT", -0.1, "-0.1 must be >= 0"),
    (f"{QUERYINST}.PRIOR_PROB", 0.0, "0.0 must be >= 1e-09"),
    (f"{QUERYINST}.PRIOR_PROB", 1.0, "1.0 must be <= 0.999999"),
    (f"{QUERYINST}.FOCAL_GAMMA", -1.0, "-1.0 must be >= 0"),
    (f"{QUERYINST}.FOCAL_ALPHA", 1.5, "1.5 must be <= 1"),
    (f"{QUERYINST}.CLASS_WEIGHT", -2.0, "-2.0 must be >= 0"),
    (f"{QUERYINST}.DICE_WEIGHT", NAN, "nan must be >= 0"),
    (f"{QUERYINST}.COST_GIOU", -2.0, "-2.0 must be >= 0"),
    (f"{QUERYINST}.COST_L1", INF, "inf must be <= 1000000"),
    (f"{QUERYINST}.ALLOW_UNLOADED", ("(",), "'(' must be a regular expression"),
    (f"{QUERYINST}.ALLOW_UNLOADED", "backbone", "'backbone' must be a tuple"),
    (f"{QUERYINST}.SPEEDUPS", (3,), "3 must be a text"),
    (
        f"{QUERYINST}.ACTIVATION_CHECKPOINTING",
        ("backbone", "neck"),
        "'neck' must be one of backbone, box_heads, mask_heads",
    ),
    ("MODEL.KEYPOINT_ON", True, "True must be False (QueryInst has no keypoints)"),
    ("MODEL.PIXEL_STD", (58.4, 0.0, 57.4), "0.0 must be >= 0.001"),
    ("MODEL.PIXEL_STD", (58.4, -57.1, 57.4), "-57.1 must be >= 0.001"),
    ("MODEL.PIXEL_STD", (58.4, 57.1), "[58.4, 57.1] must hold 3 values"),
    ("MODEL.PIXEL_STD", (), "() must hold 1 to 3 values"),
    ("MODEL.PIXEL_MEAN", (123.7, INF, 103.5), "inf must be <= 100000"),
    ("MODEL.PIXEL_MEAN", ((1.0,), 116.3, 103.5), "(1.0,) must be a number"),
    ("MODEL.BACKBONE.NAME", "build_resnet", "'build_resnet' must be a registered backbone"),
    ("MODEL.BACKBONE.FREEZE_AT", 6, "6 must be <= 5"),
    (f"{RESNETS}.DEPTH", 25, "25 must be one of 18, 34, 50, 101, 152"),
    (f"{RESNETS}.DEPTH", 18, "16 must be 64 with MODEL.RESNETS.DEPTH 18; set"),
    (f"{RESNETS}.NORM", "x", "'x' must be one of '', BN"),
    (f"{RESNETS}.OUT_FEATURES", ["res2", "res9"], "'res9' must be one of stem, res2"),
    (f"{RESNETS}.OUT_FEATURES", ["res2"], "must be neighbours out of"),
    (f"{RESNETS}.RES5_DILATION", 3, "3 must be one of 1, 2"),
    (f"{RESNETS}.RES5_DILATION", 2, "2 must be 1 with res5"),
    ("MODEL.FPN.NORM", "x", "'x' must be one of '', BN"),
    ("MODEL.FPN.NORM", "GN", "norm 'GN' takes multiples of 32 channels, [16]"),
    ("MODEL.FPN.FUSE_TYPE", "", "'' must be one of sum, avg"),
    ("MODEL.FPN.IN_FEATURES", ["res2", "res4"], "['res2', 'res4'] must be neighbours out of"),
    ("MODEL.FPN.IN_FEATURES", [], "[] must be neighbours out of"),
    ("MODEL.FPN.OUT_CHANNELS", 0, "0 must be >= 1"),
    ("MODEL.ROI_HEADS.IN_FEATURES", [], "[] must hold 1 to 1000 values"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p9"], "the backbone has no feature 'p9'"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p2"], "have strides [4, 4], which must double"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p2"], "have strides [8, 4], which must double"),
    ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "0 must be >= 1"),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", NAN, "nan must be >= 0"),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 50.0, "50.0 must be <= 1"),
    ("INPUT.FORMAT", "", "'' must be one of RGB, BGR"),
    ("INPUT.FORMAT", "HSV", "'HSV' must be one of RGB, BGR"),
    ("TEST.DETECTIONS_PER_IMAGE", 0, "0 must be >= 1"),
    ("TEST.DETECTIONS_PER_IMAGE", 10**9, "1000000000 must be <= 10000"),
]


@pytest.mark.parametrize("key, value, limit", VALUES)
def test_build_model_names_value_limit_and_key_in_one_line(key, value, limit):
    start = time.process_time()
    message = refusal(build_model, changed(key, value))
    assert limit in message and key.rpartition(".")[2] in message
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "key, value, limit",
    [
        ("SOLVER.MOMENTUM", 2.0, "2.0 must be < 1"),
        ("SOLVER.MOMENTUM", -0.1, "-0.1 must be >= 0"),
        ("SOLVER.GAMMA", 0.0, "0.0 must be > 0"),
        ("SOLVER.GAMMA", NAN, "nan must be > 0"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "'Cosine' must be one of WarmupMultiStepLR"),
        ("SOLVER.WARMUP_METHOD", "exponential", "'exponential' must be one of linear, constant"),
        ("SOLVER.WARMUP_FACTOR", 1.5, "1.5 must be <= 1"),
        ("SOLVER.WARMUP_ITERS", -1, "-1 must be >= 0"),
        ("SOLVER.STEPS", (2.5,), "2.5 must be an integer"),
        ("SOLVER.STEPS", ("a",), "'a' must be a number"),
        ("SOLVER.MAX_ITER", 10**12, "1000000000000 must be <= 1000000000"),
        ("SOLVER.BASE_LR", INF, "inf must be <= 1e+38"),
        ("SOLVER.WEIGHT_DECAY", INF, "inf must be <= 1000000"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", INF, "inf must be <= 1000000000"),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", NAN, "nan must be from 1 to 4, or inf"),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1e18, "1e+18 must be from 1 to 4, or inf"),
        ("SOLVER.NESTEROV", 1, "1 must be one of True, False"),
    ],
)
def test_build_optimizer_names_value_limit_and_key_in_one_line(key, value, limit):
    message = refusal(build_optimizer, changed(key, value), nn.Linear(1, 1))
    assert message == f"{limit.split(' must')[0]} must{message.split(' must', 1)[1]}"
    assert limit in message and message.endswith(f"; set {key}")


def test_check_solver_refuses_an_end_above_the_rate():
    cfg = tiny_cfg(SOLVER__LR_SCHEDULER_NAME="WarmupCosineLR", SOLVER__BASE_LR_END=0.5)
    assert "0.5 must be <= SOLVER.BASE_LR 0.001" in refusal(build_optimizer, cfg, nn.Linear(1, 1))


def test_build_optimizer_takes_the_largest_norm_and_no_decay_of_norms():
    cfg = changed("SOLVER.CLIP_GRADIENTS.NORM_TYPE", INF)
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))


@pytest.mark.parametrize(
    "key, value, limit",
    [
        ("MODEL.META_ARCHITECTURE", "QueryInts", "'QueryInts' must be a registered one"),
        ("DATALOADER.NUM_WORKERS", 10**6, "1000000 must be <= 256"),
        ("DATALOADER.SAMPLER_TRAIN", "x", "'x' must be one of TrainingSampler"),
        ("DATALOADER.REPEAT_THRESHOLD", NAN, "nan must be >= 0"),
        ("DATASETS.TRAIN", (3,), "3 must be a text"),
        ("SEED", 2**32, "4294967296 must be <= 4294900000"),
        ("VIS_PERIOD", -1, "-1 must be >= 0"),
        ("TEST.EVAL_PERIOD", -1, "-1 must be >= 0"),
        ("TEST.BEST_METRIC", "AP", "'AP' must be task/metric"),
        ("TEST.EXPECTED_RESULTS", [1], "1 must be [task, metric, value, tolerance]"),
        ("TEST.EXPECTED_RESULTS", [["bbox", "AP", NAN, 0.2]], "must be [task, metric, value"),
        ("TEST.PRECISION", "half", "'half' must be one of fp32, fp16, bf16"),
        ("INPUT.MIN_SIZE_TRAIN", (), "() must hold 1 to 1000 values"),
        ("INPUT.MIN_SIZE_TRAIN", (10**6,), "1000000 must be <= 20000"),
        ("INPUT.MAX_SIZE_TEST", 10**6, "1000000 must be <= 20000"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_check_run_names_value_limit_and_key_in_one_line(key, value, limit, training):
    cfg = changed(key, value, MODEL__WEIGHTS="a.pth")
    message = refusal(check_run, cfg, training=training)
    assert limit in message and message.endswith(f"; set {key}")


def test_check_limits_refuses_a_model_that_no_machine_holds():
    cfg = tiny_cfg(MODEL__QUERYINST__EMBED_DIM=4096, MODEL__QUERYINST__DYNAMIC_DIM=2048)
    assert "billion weights, which must be <= 4" in refusal(check_limits, cfg)
    cfg = tiny_cfg(MODEL__RESNETS__WIDTH_PER_GROUP=1024, MODEL__RESNETS__NUM_GROUPS=256)
    assert "billion weights, which must be <= 4" in refusal(check_limits, cfg)


def test_check_limits_covers_architectures_that_extend_queryinst(monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Derived", changed)
    cfg = changed("MODEL.RESNETS.DEPTH", 25)
    cfg.MODEL.META_ARCHITECTURE = "Derived"
    assert "set MODEL.RESNETS.DEPTH" in refusal(check_limits, cfg)


def test_check_limits_leaves_the_model_of_detectron2s_architectures_alone():
    cfg = changed("MODEL.RESNETS.DEPTH", 25)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    check_limits(cfg)
    cfg.SOLVER.MOMENTUM = 2.0
    assert refusal(check_limits, cfg).startswith("2.0 must be < 1 (")


def test_check_limits_checks_the_sections_that_are_asked_for():
    cfg = changed("SOLVER.MOMENTUM", 2.0)
    check_limits(cfg, "INPUT", "MODEL.FPN")
    refusal(check_limits, cfg, "SOLVER")


def test_model_zoo_and_predictor_check_what_a_user_changed(monkeypatch):
    cfg = changed("MODEL.PIXEL_STD", (0.0,) * 3)
    assert "set MODEL.PIXEL_STD" in refusal(Predictor, cfg)
    monkeypatch.setattr("queryinst.model_zoo.model_zoo.get_config", lambda *_: cfg)
    assert "set MODEL.PIXEL_STD" in refusal(model_zoo.get, "any.yaml")


@pytest.mark.parametrize(
    "limit, inside, outside",
    [
        (real("[0, 1)"), [0, 0.0, 0.999, 5e-324], [1, 1.0, -5e-324, NAN, INF]),
        (real("(0, 1]"), [5e-324, 1, 1.0], [0, -0.0, 1.0000001, NAN]),
        (real("(0, inf]"), [INF, 1e308], [0.0, -INF, NAN]),
        (real("(0, inf)"), [1e308], [INF, NAN]),
        (whole("[-2, 2]"), [-2, 0, 2], [-3, 3, 1.0, "1", True, None, NAN, 10**400]),
        (OneOf((True, False)), [True, False], [1, 0, "True", None]),
        (Each(whole("[0, 1]"), 1, 2), [(0,), [1, 1]], [(), (0, 0, 0), (2,), 0, "01", {0: 1}]),
    ],
)
def test_limits_tell_inside_from_outside(limit, inside, outside):
    assert [limit.problem(value) for value in inside] == [None] * len(inside)
    assert all(limit.problem(value) for value in outside)


@pytest.mark.parametrize("num_values", [1, 3])
def test_check_limits_lets_gray_images_have_one_channel_or_three(num_values):
    cfg = tiny_cfg(
        INPUT__FORMAT="L",
        MODEL__PIXEL_MEAN=(100.0,) * num_values,
        MODEL__PIXEL_STD=(50.0,) * num_values,
    )
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    image = torch.zeros(1, 32, 32, dtype=torch.uint8)
    [output] = model([{"image": image, "height": 32, "width": 32}])
    assert model.preprocess_image([{"image": image}]).tensor.shape[1] == num_values
    assert len(output["instances"])


def test_check_limits_wants_means_of_the_images_channels():
    cfg = tiny_cfg(MODEL__PIXEL_MEAN=(1.0,), MODEL__PIXEL_STD=(1.0,))
    assert "must hold 3 values (equally many" in refusal(check_limits, cfg)


@pytest.mark.parametrize(
    "groups, norm, fails", [(2, "BN", True), (0, "BN", False), (2, "FrozenBN", False)]
)
def test_check_limits_refuses_precise_statistics_of_layers_that_denoising_reuses(
    groups, norm, fails
):
    keys = {"TEST__PRECISE_BN__ENABLED": True, "MODEL__ROI_MASK_HEAD__NORM": norm}
    cfg = tiny_cfg(**keys, MODEL__QUERYINST__DENOISING_GROUPS=groups)
    if fails:
        assert "MODEL.QUERYINST.DENOISING_GROUPS 0 instead of 2" in refusal(check_limits, cfg)
    else:
        check_limits(cfg)
