"""What each key may hold: one table of limits, and `check_limits`, which reads it.

It has QueryInst's own keys and those of Detectron2 that a run of QueryInst reads. Upper limits are
generous: they refuse what no machine could hold or no schedule could mean. What keys of the model
have to do with each other is in `config_relations.py`.
"""

import re
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from .config import CHECKPOINTED_PARTS
from .config_relations import CHANNELS, RELATIONS, copy_paste, pixels, precise_bn
from .value_limits import Because, Each, Fits, OneOf, OrNone, real, text, whole


def is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def is_expected_result(row: Any) -> bool:
    return (
        isinstance(row, (list, tuple))
        and list(map(type, row[:2])) == [str, str]
        and len(row) == 4
        and all(real("(-inf, inf)").problem(number) is None for number in row[2:])
    )


def is_norm_type(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and (1 <= value <= 4 or value == float("inf"))


FLAG = OneOf((True, False))
ANY_TEXT = text(lambda _: True, "a text")
NAMES = Each(text())
COUNT = whole("[0, 1000000000]")  # of iterations
SIDE = whole("[0, 20000]")  # pixels; 0 keeps an image's own
WEIGHT = real("[0, 1000000]")
RATE = real("[0, 1000000]")
NORM = OneOf(
    ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
)
POOLER_TYPE = OneOf(("ROIAlignV2", "ROIAlign", "ROIPool"))
DEVICE = text(
    re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|xla|meta)(:\d{1,3})?").fullmatch,
    "cpu, cuda, cuda:1, ...",
)

SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)

LIMITS: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": text(lambda name: name in META_ARCH_REGISTRY, "a registered one"),
    "MODEL.DEVICE": DEVICE,
    "MODEL.WEIGHTS": ANY_TEXT,
    "MODEL.MASK_ON": FLAG,
    "MODEL.KEYPOINT_ON": Because(OneOf((False,)), "QueryInst has no keypoints"),
    "MODEL.LOAD_PROPOSALS": Because(OneOf((False,)), "the queries are QueryInst's proposals"),
    "MODEL.PIXEL_MEAN": Each(real("[-100000, 100000]"), 1, 3),
    "MODEL.PIXEL_STD": Because(
        Each(real("[0.001, 100000]"), 1, 3), "the channels are divided by it"
    ),
    "MODEL.QUERYINST.NUM_QUERIES": whole("[1, 10000]"),
    "MODEL.QUERYINST.INITIAL_GRID_SIZES": Each(real("[0.001, 1]")),
    "MODEL.QUERYINST.NUM_STAGES": whole("[1, 50]"),
    "MODEL.QUERYINST.EMBED_DIM": whole("[1, 4096]"),
    "MODEL.QUERYINST.NUM_HEADS": whole("[1, 4096]"),
    "MODEL.QUERYINST.FFN_DIM": whole("[1, 65536]"),
    "MODEL.QUERYINST.DYNAMIC_DIM": whole("[1, 2048]"),
    "MODEL.QUERYINST.NUM_CLS_FCS": whole("[0, 50]"),
    "MODEL.QUERYINST.NUM_REG_FCS": whole("[0, 50]"),
    "MODEL.QUERYINST.NMS_THRESH_TEST": real("(0, 1]"),
    "MODEL.QUERYINST.DROPOUT": real("[0, 1)"),
    "MODEL.QUERYINST.INFERENCE_ONLY": FLAG,
    "MODEL.QUERYINST.SPEEDUPS": Each(ANY_TEXT),  # `speedups.resolve` knows the names
    "MODEL.QUERYINST.ALLOW_UNLOADED": Each(text(is_pattern, "a regular expression")),
    "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING": Each(OneOf(CHECKPOINTED_PARTS)),
    "MODEL.QUERYINST.PRIOR_PROB": real("[1e-09, 0.999999]"),
    "MODEL.QUERYINST.FOCAL_ALPHA": real("[0, 1]"),
    "MODEL.QUERYINST.FOCAL_GAMMA": real("[0, 100]"),
    "MODEL.QUERYINST.CLASS_WEIGHT": WEIGHT,
    "MODEL.QUERYINST.L1_WEIGHT": WEIGHT,
    "MODEL.QUERYINST.GIOU_WEIGHT": WEIGHT,
    "MODEL.QUERYINST.DICE_WEIGHT": WEIGHT,
    "MODEL.QUERYINST.MASK_BCE_WEIGHT": WEIGHT,
    "MODEL.QUERYINST.COST_CLASS": WEIGHT,
    "MODEL.QUERYINST.COST_L1": WEIGHT,
    "MODEL.QUERYINST.COST_GIOU": WEIGHT,
    "MODEL.QUERYINST.DENOISING_GROUPS": whole("[0, 1000]"),
    "MODEL.QUERYINST.DENOISING_QUERIES": whole("[1, 10000]"),
    "MODEL.QUERYINST.DENOISING_NOISE": real("[0, 10]"),
    "MODEL.QUERYINST.DENOISING_WEIGHT": WEIGHT,
    "MODEL.BACKBONE.NAME": text(lambda name: name in BACKBONE_REGISTRY, "a registered backbone"),
    "MODEL.BACKBONE.FREEZE_AT": whole("[0, 5]"),  # stages of a ResNet, the stem included
    "MODEL.BACKBONE.NORM_EVAL": FLAG,
    "MODEL.RESNETS.DEPTH": OneOf((18, 34, 50, 101, 152)),
    "MODEL.RESNETS.OUT_FEATURES": Each(OneOf(("stem", "res2", "res3", "res4", "res5")), 1, 5),
    "MODEL.RESNETS.NUM_GROUPS": whole("[1, 256]"),
    "MODEL.RESNETS.NORM": NORM,
    "MODEL.RESNETS.WIDTH_PER_GROUP": whole("[1, 1024]"),
    "MODEL.RESNETS.STRIDE_IN_1X1": FLAG,
    "MODEL.RESNETS.RES5_DILATION": OneOf((1, 2)),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": whole("[1, 2048]"),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": whole("[1, 2048]"),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Each(FLAG, 4, 4),
    "MODEL.RESNETS.DEFORM_MODULATED": FLAG,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": whole("[1, 256]"),
    "MODEL.FPN.IN_FEATURES": NAMES,
    "MODEL.FPN.OUT_CHANNELS": whole("[1, 4096]"),
    "MODEL.FPN.NORM": NORM,
    "MODEL.FPN.FUSE_TYPE": OneOf(("sum", "avg")),
    "MODEL.ROI_HEADS.NUM_CLASSES": whole("[1, 50000]"),
    "MODEL.ROI_HEADS.IN_FEATURES": Each(text(), 1),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": real("[0, 1]"),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": whole("[1, 56]"),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": whole("[0, 32]"),  # 0: by the size of the RoI
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": POOLER_TYPE,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Because(
        Each(real("[0.001, 1000]"), 4, 4), "dx, dy, dw, dh are divided by it"
    ),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": whole("[1, 112]"),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": whole("[0, 32]"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": POOLER_TYPE,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": whole("[0, 50]"),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": whole("[1, 4096]"),
    "MODEL.ROI_MASK_HEAD.NORM": NORM,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": FLAG,
    "INPUT.FORMAT": OneOf(tuple(CHANNELS)),
    "INPUT.MASK_FORMAT": OneOf(("bitmask", "polygon")),
    "INPUT.RESIZE_WITH": OneOf(("PIL", "OPENCV")),
    "INPUT.RANDOM_FLIP": OneOf(("horizontal", "vertical", "none")),
    "INPUT.MIN_SIZE_TRAIN": Each(SIDE, 1),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": OneOf(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": whole("[1, 20000]"),
    "INPUT.MIN_SIZE_TEST": SIDE,
    "INPUT.MAX_SIZE_TEST": whole("[1, 20000]"),
    "INPUT.MAX_PIXELS": whole("[1, 10000000000]"),
    "INPUT.COPY_PASTE": real("[0, 1]"),
    "INPUT.CROP.ENABLED": FLAG,
    "INPUT.CROP.TYPE": OneOf(("relative", "relative_range", "absolute", "absolute_range")),
    "INPUT.CROP.SIZE": Each(real("(0, 20000]"), 2, 2),
    "INPUT.CROP.RESIZE_BEFORE": Each(whole("[1, 20000]"), 1),
    "DATASETS.TRAIN": NAMES,
    "DATASETS.TEST": NAMES,
    "DATALOADER.NUM_WORKERS": whole("[0, 256]"),  # processes, for each of the training's
    "DATALOADER.ASPECT_RATIO_GROUPING": FLAG,
    "DATALOADER.SAMPLER_TRAIN": OneOf(SAMPLERS),
    "DATALOADER.REPEAT_THRESHOLD": real("[0, 1]"),  # a share of the images
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": FLAG,
    "SOLVER.OPTIMIZER": OneOf(("ADAMW", "SGD")),
    "SOLVER.LR_SCHEDULER_NAME": OneOf(
        ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
    ),
    "SOLVER.MAX_ITER": whole("[1, 1000000000]"),
    "SOLVER.BASE_LR": real("(0, 1e+38]"),  # of float32: a run at a huge rate ends by itself
    "SOLVER.BASE_LR_END": RATE,
    "SOLVER.BACKBONE_MULTIPLIER": RATE,
    "SOLVER.BIAS_LR_FACTOR": RATE,
    "SOLVER.MOMENTUM": Because(real("[0, 1)"), "from 1 on old gradients never fade"),
    "SOLVER.NESTEROV": FLAG,
    "SOLVER.WEIGHT_DECAY": RATE,
    "SOLVER.WEIGHT_DECAY_NORM": OrNone(RATE),  # None follows WEIGHT_DECAY
    "SOLVER.WEIGHT_DECAY_BIAS": OrNone(RATE),
    "SOLVER.GAMMA": real("(0, 1]"),
    "SOLVER.STEPS": Each(whole("[1, 1000000000]")),
    "SOLVER.NUM_DECAYS": whole("[1, 1000]"),
    "SOLVER.WARMUP_FACTOR": real("[0, 1]"),
    "SOLVER.WARMUP_ITERS": COUNT,
    "SOLVER.WARMUP_METHOD": OneOf(("linear", "constant")),
    "SOLVER.RESCALE_INTERVAL": FLAG,
    "SOLVER.CHECKPOINT_PERIOD": whole("[1, 1000000000]"),
    "SOLVER.CHECKPOINT_MINUTES": real("[0, 525600]"),
    "SOLVER.CHECKPOINT_KEEP": COUNT,
    "SOLVER.SKIP_NONFINITE": COUNT,
    "SOLVER.IMS_PER_BATCH": whole("[1, 65536]"),
    "SOLVER.REFERENCE_WORLD_SIZE": whole("[0, 65536]"),
    "SOLVER.ACCUMULATE_STEPS": whole("[1, 65536]"),
    "SOLVER.CLIP_GRADIENTS.ENABLED": FLAG,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": OneOf(("full_model", "norm", "value")),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": real("(0, 1000000000]"),
    # Powers of small gradients vanish in float32, and roots of their sum overflow.
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Fits(is_norm_type, "from 1 to 4, or inf for the largest"),
    "SOLVER.EMA.ENABLED": FLAG,
    "SOLVER.EMA.DECAY": Because(real("[0, 1)"), "at 1 the average never changes"),
    "SOLVER.AMP.ENABLED": FLAG,
    "SOLVER.AMP.PRECISION": OneOf(("fp16", "bf16")),
    "TEST.DETECTIONS_PER_IMAGE": whole("[1, 10000]"),
    "TEST.PRECISION": OneOf(("fp32", "fp16", "bf16")),
    "TEST.EVAL_PERIOD": COUNT,
    "TEST.BEST_METRIC": text(re.compile(r"[^/]+/.+").fullmatch, "task/metric"),
    "TEST.EARLY_STOPPING_PATIENCE": COUNT,
    "TEST.VALIDATION_LOSS": FLAG,
    "TEST.AUG.ENABLED": FLAG,
    "TEST.AUG.FLIP": FLAG,
    "TEST.AUG.MIN_SIZES": Each(SIDE, 1),
    "TEST.AUG.MAX_SIZE": whole("[1, 20000]"),
    "TEST.EXPECTED_RESULTS": Each(Fits(is_expected_result, "[task, metric, value, tolerance]")),
    "TEST.PRECISE_BN.NUM_ITER": whole("[1, 1000000000]"),
    "DISTRIBUTED.TIMEOUT_MINUTES": real("[0.01, 525600]"),
    "OUTPUT_DIR": text(),
    "SEED": whole("[-9000000000000000000, 4294900000]"),  # NumPy's has 32 bits; plus the rank
    "CUDNN_BENCHMARK": FLAG,
    "VIS_PERIOD": COUNT,
    "WRITERS": Each(OneOf(("wandb", "mlflow"))),
}


def check_limits(cfg: CfgNode, *sections: str) -> None:
    """Refuse a value that no run can mean, before anything is built.

    Args:
        sections: what to check, such as "SOLVER" or "MODEL.FPN"; by default everything. MODEL is
            not checked for a META_ARCHITECTURE of Detectron2's own.

    Raises:
        ValueError: one line with the value, its limit and the key.
    """
    for key, limit in LIMITS.items():
        if sections and not key.startswith(tuple(f"{section}." for section in sections)):
            continue
        if key.startswith("MODEL.") and key != "MODEL.META_ARCHITECTURE" and not _is_queryinst(cfg):
            continue
        value: Any = cfg
        for name in key.split("."):
            value = value.get(name) if isinstance(value, CfgNode) else None
        if problem := limit.problem(value):
            raise ValueError(f"{problem}; set {key}")
    if not sections and _is_queryinst(cfg):
        problems = (
            *(relation(cfg) for relation in (pixels, copy_paste, precise_bn)),
            *(relation(cfg.MODEL) for relation in RELATIONS),
        )
        if problem := next(filter(None, problems), None):
            raise ValueError(problem)


def _is_queryinst(cfg: CfgNode) -> bool:
    """Also a class that is derived from it, under its own name."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        return False  # which the first row of the table says
    return not META_ARCH_REGISTRY.get(name).__module__.startswith("detectron2.")
