"""Every yaml file loads, states nothing twice, and holds the published recipe."""

import ast
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

import queryinst
from queryinst.config import add_queryinst_config
from queryinst.solver import check_solver

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
COCO = "COCO-InstanceSegmentation/queryinst_"
EPOCH = 7330  # iterations: 117,266 images in batches of 16, the last one filled up


def defaults() -> CfgNode:
    cfg = get_cfg()
    add_queryinst_config(cfg)
    return cfg


def load(name: str) -> CfgNode:
    cfg = defaults()
    cfg.merge_from_file(str(CONFIGS / name))
    return cfg


def leaves(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def test_configs_has_the_promised_files():
    models = {"R_50_FPN_1x", "R_50_FPN_3x", "R_50_FPN_3x_300q", "R_50_FPN_3x_300q_paper"}
    models |= {"R_101_FPN_3x", "R_101_FPN_3x_300q", "R_101_FPN_3x_300q_paper"}
    models |= {"R_50_FPN_3x_300q_plus"}
    assert {f"{COCO}{model}.yaml" for model in models} <= set(NAMES)
    assert "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml" in NAMES
    assert sum(name.startswith("quick_schedules/") for name in NAMES) >= 2


def test_configs_state_only_what_differs_from_their_base():
    wrong = []
    for name in NAMES:
        stated = yaml.safe_load((CONFIGS / name).read_text())
        base = stated.pop("_BASE_", None)
        if base is None:
            assert stated.pop("VERSION") == 2, name  # Detectron2 would have to guess it
            before = leaves(defaults())
        else:
            before = leaves(load(str(Path(name).parent / base)))
            wrong += [] if stated else [f"{name} is its base"]
        after = leaves(load(name))
        wrong += [f"{name}: {key}" for key in leaves(stated) if before[key] == after[key]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_configs_have_a_valid_solver_and_widths(name):
    cfg = load(name)
    check_solver(cfg)
    assert cfg.MODEL.META_ARCHITECTURE == "QueryInst"
    assert cfg.MODEL.FPN.OUT_CHANNELS == cfg.MODEL.QUERYINST.EMBED_DIM
    assert cfg.MODEL.QUERYINST.EMBED_DIM % cfg.MODEL.QUERYINST.NUM_HEADS == 0
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and not name.startswith("Base"):
        assert max(cfg.SOLVER.STEPS, default=0) < cfg.SOLVER.MAX_ITER


def test_add_queryinst_config_adds_only_keys_that_are_read():
    package = Path(queryinst.__file__).parent
    read = set()
    for path in package.rglob("*.py"):
        if path.name not in ("config.py", "testing.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    read.add(node.attr)
                elif isinstance(node, ast.Constant):
                    read.add(node.value)
    own = leaves(defaults()).keys() - leaves(get_cfg()).keys()
    assert "MODEL.QUERYINST.NUM_QUERIES" in own
    assert [key for key in sorted(own) if key.rsplit(".", 1)[-1] not in read] == []


@pytest.mark.parametrize(
    "model, depth, queries, epochs, drops, warmup",
    [
        ("R_50_FPN_1x", 50, 100, 12, (8, 11), 999),
        ("R_50_FPN_3x", 50, 100, 36, (27, 33), 499),
        ("R_50_FPN_3x_300q", 50, 300, 36, (27, 33), 499),
        ("R_101_FPN_3x", 101, 100, 36, (27, 33), 499),
        ("R_101_FPN_3x_300q", 101, 300, 36, (27, 33), 499),
        ("R_50_FPN_3x_300q_paper", 50, 300, 36, (27, 33), 499),
        ("R_101_FPN_3x_300q_paper", 101, 300, 36, (27, 33), 499),
    ],
)
def test_configs_hold_the_published_recipes(model, depth, queries, epochs, drops, warmup):
    cfg = load(f"{COCO}{model}.yaml")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.QUERYINST.NUM_QUERIES) == (depth, queries)
    weights = {50: "torchvision/R-50.pkl", 101: "/resnet101-63fe2227.pth"}
    assert cfg.MODEL.WEIGHTS.endswith(weights[depth])
    assert cfg.SOLVER.MAX_ITER == epochs * EPOCH
    assert cfg.SOLVER.STEPS == tuple(drop * EPOCH for drop in drops)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (warmup, 0.001)
    queryinst = cfg.MODEL.QUERYINST
    assert (queryinst.INITIAL_GRID_SIZES, queryinst.DENOISING_GROUPS) == ((), 0)
    assert (queryinst.NMS_THRESH_TEST, queryinst.MASK_BCE_WEIGHT) == (1.0, 0.0)
    sizes = (800,) if epochs == 12 else tuple(range(480, 801, 32))
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == (sizes, 1333)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    crop = cfg.INPUT.CROP
    assert crop.ENABLED == (queries == 300)
    if crop.ENABLED:
        assert (crop.TYPE, crop.SIZE) == ("absolute_range", [384, 600])
        assert crop.RESIZE_BEFORE == (400, 500, 600)
    paper = model.endswith("_paper")
    rates = (cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER)
    assert rates == ((2.5e-5, 1.0) if paper else (1e-4, 0.1))
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == (1.0 if paper else 0.1)


SHARED_BY_ALL_COCO_MODELS = {
    "MODEL.DEVICE": "cuda",
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.BACKBONE.NORM_EVAL": True,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.IN_FEATURES": ("res2", "res3", "res4", "res5"),
    "MODEL.ROI_HEADS.IN_FEATURES": ("p2", "p3", "p4", "p5"),
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (2.0, 2.0, 1.0, 1.0),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,
    "MODEL.QUERYINST.NUM_STAGES": 6,
    "MODEL.QUERYINST.EMBED_DIM": 256,
    "MODEL.QUERYINST.NUM_HEADS": 8,
    "MODEL.QUERYINST.FFN_DIM": 2048,
    "MODEL.QUERYINST.DYNAMIC_DIM": 64,
    "MODEL.QUERYINST.NUM_CLS_FCS": 1,
    "MODEL.QUERYINST.NUM_REG_FCS": 3,
    "MODEL.QUERYINST.DROPOUT": 0.0,
    "MODEL.QUERYINST.PRIOR_PROB": 0.01,
    "MODEL.QUERYINST.FOCAL_ALPHA": 0.25,
    "MODEL.QUERYINST.FOCAL_GAMMA": 2.0,
    "MODEL.QUERYINST.CLASS_WEIGHT": 2.0,
    "MODEL.QUERYINST.L1_WEIGHT": 5.0,
    "MODEL.QUERYINST.GIOU_WEIGHT": 2.0,
    "MODEL.QUERYINST.DICE_WEIGHT": 8.0,
    "MODEL.QUERYINST.COST_CLASS": 2.0,
    "MODEL.QUERYINST.COST_L1": 5.0,
    "MODEL.QUERYINST.COST_GIOU": 2.0,
    "INPUT.FORMAT": "RGB",
    "INPUT.MASK_FORMAT": "bitmask",
    "INPUT.RANDOM_FLIP": "horizontal",
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # follows WEIGHT_DECAY
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.AMP.ENABLED": False,
    "SOLVER.CHECKPOINT_PERIOD": EPOCH,
    "TEST.EVAL_PERIOD": EPOCH,
}


def test_configs_of_coco_share_keys():
    wrong = []
    for name in (name for name in NAMES if name.startswith(COCO)):
        cfg = leaves(load(name))
        for key, expected in SHARED_BY_ALL_COCO_MODELS.items():
            value = tuple(cfg[key]) if isinstance(cfg[key], list) else cfg[key]
            wrong += [] if value == expected else [f"{name}: {key} is {value}, not {expected}"]
    assert not wrong, "\n".join(wrong)
