"""Every configuration key of QueryInst, once, with its unit and default.

Keys of Detectron2 that QueryInst reads with Detectron2's meaning: ``MODEL.MASK_ON``,
``MODEL.{PIXEL_MEAN, PIXEL_STD}``, ``INPUT.FORMAT``, ``MODEL.FPN.OUT_CHANNELS`` (must equal
EMBED_DIM), ``MODEL.ROI_HEADS.{NUM_CLASSES, IN_FEATURES, SCORE_THRESH_TEST}`` (the threshold acts
before masks are computed), ``MODEL.ROI_BOX_HEAD.{POOLER_RESOLUTION, POOLER_SAMPLING_RATIO,
POOLER_TYPE, BBOX_REG_WEIGHTS}``, ``MODEL.ROI_MASK_HEAD.{POOLER_RESOLUTION, POOLER_SAMPLING_RATIO,
POOLER_TYPE, NUM_CONV, CONV_DIM, NORM, CLS_AGNOSTIC_MASK}``, ``TEST.DETECTIONS_PER_IMAGE`` and
``VIS_PERIOD``.
Their values for QueryInst stand in ``configs/Base-QueryInst.yaml``. What each key may hold is in
``config_limits.py``: a new key needs a row there.
"""

from typing import Any

from detectron2.config import CfgNode as CN

from .yaml_files import load_yaml

CHECKPOINTED_PARTS = ("backbone", "box_heads", "mask_heads")  # of ACTIVATION_CHECKPOINTING
MAX_PIXELS = 100_000_000  # of INPUT.MAX_PIXELS

# Old keys, which files and options must no longer hold, and what the error says beside the new key.
_RENAMED = {
    f"MODEL.QUERYINST.CHECKPOINT_{part.upper()}": (
        "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING",
        f'True is now ("{part}",) and False is (); the tuple holds any of {CHECKPOINTED_PARTS}',
    )
    for part in CHECKPOINTED_PARTS
} | {
    "MODEL.QUERYINST.SLIM": (
        "MODEL.QUERYINST.INFERENCE_ONLY",
        "its values are still True and False",
    )
}


def add_queryinst_config(cfg: CN) -> None:
    """Add QueryInst's own keys to a Detectron2 configuration, in place."""
    _add_model_keys(cfg)
    _add_loss_keys(cfg)
    _add_training_keys(cfg)
    for old, (new, advice) in _RENAMED.items():
        if not cfg.key_is_renamed(old):
            cfg.register_renamed_key(old, new, advice)


def config_of_checkpoint(
    text: Any, label: str = "the configuration of the checkpoint"
) -> dict[str, Any]:
    """The sections and keys of the yaml `text` that a checkpoint holds, by their present names.

    Old keys are an error elsewhere, but nobody can edit them in a checkpoint.

    Args:
        label: how messages name the text.

    Raises:
        ValueError: not a yaml mapping of plain values. One line.
    """
    saved = load_yaml(text, label)
    if not isinstance(saved, dict):
        raise ValueError(f"{label} is not a configuration, a yaml mapping of keys to values")
    queryinst = _section(_section(saved, "MODEL"), "QUERYINST")
    old_flags = {part: f"CHECKPOINT_{part.upper()}" for part in CHECKPOINTED_PARTS}
    if any(flag in queryinst for flag in old_flags.values()):
        queryinst["ACTIVATION_CHECKPOINTING"] = [
            part for part, flag in old_flags.items() if queryinst.pop(flag, False)
        ]
    if "SLIM" in queryinst:
        queryinst["INFERENCE_ONLY"] = queryinst.pop("SLIM")
    return saved


def _section(keys: dict[str, Any], name: str) -> dict[str, Any]:
    section = keys.get(name)
    return section if isinstance(section, dict) else {}


def _add_model_keys(cfg: CN) -> None:
    queryinst = cfg.MODEL.QUERYINST = CN()
    queryinst.NUM_QUERIES = 100  # learned queries, equal for all images
    # Sides of the initial boxes of a model without weights, in sides of the image, which take turns
    # on a grid over it; () for boxes that are each the whole image.
    queryinst.INITIAL_GRID_SIZES = ()
    queryinst.NUM_STAGES = 6  # box heads, and mask heads, in the cascade
    queryinst.EMBED_DIM = 256  # channels of a query and of the FPN's levels
    queryinst.NUM_HEADS = 8  # heads of the self-attention; divides EMBED_DIM
    queryinst.FFN_DIM = 2048  # hidden channels of the feed-forward network
    queryinst.DYNAMIC_DIM = 64  # channels between the two generated 1x1 kernels
    queryinst.NUM_CLS_FCS = 1  # hidden layers of the class branch
    queryinst.NUM_REG_FCS = 3  # hidden layers of the box branch
    queryinst.DROPOUT = 0.0  # probability, in self-attention and feed-forward network
    # Of two detections of a class whose boxes' IoU is larger, the one with the lower score is
    # dropped; 1.0 for none. It helps models that were trained for a short time.
    queryinst.NMS_THRESH_TEST = 1.0
    # Build only the last mask head, which is the one that inference runs. A model that is built
    # from an inference-only checkpoint is inference-only without this key.
    queryinst.INFERENCE_ONLY = False
    # What the model may use to be faster: "auto", names of the table in docs/performance.md, or
    # nothing, which is the plain algorithm. It computes the same in each case.
    queryinst.SPEEDUPS = ("auto",)
    # Patterns (regular expressions, matched from the start of the name) of parameters that a
    # checkpoint may lack.
    queryinst.ALLOW_UNLOADED = ()
    # Batch norms of bottom_up always use their running statistics. Their affine weights are
    # trained, but in the stages that MODEL.BACKBONE.FREEZE_AT freezes. False: batch statistics in
    # training, which a backbone with random weights needs.
    cfg.MODEL.BACKBONE.NORM_EVAL = True


def _add_loss_keys(cfg: CN) -> None:
    queryinst = cfg.MODEL.QUERYINST
    queryinst.PRIOR_PROB = 0.01  # initial score of every class
    queryinst.FOCAL_ALPHA = 0.25  # weight of the positive class, of the negatives 1 - alpha
    queryinst.FOCAL_GAMMA = 2.0  # focusing exponent
    # Weights of the losses, equal in all stages.
    queryinst.CLASS_WEIGHT = 2.0
    queryinst.L1_WEIGHT = 5.0
    queryinst.GIOU_WEIGHT = 2.0
    queryinst.DICE_WEIGHT = 8.0
    queryinst.MASK_BCE_WEIGHT = 0.0  # of the binary cross-entropy beside dice, in loss_mask
    # Groups of further queries in training, which start at noised boxes of the objects; 0 for none.
    queryinst.DENOISING_GROUPS = 0
    queryinst.DENOISING_QUERIES = 10  # in a group; those beyond an image's objects start anywhere
    queryinst.DENOISING_NOISE = 0.5  # of center and sides, in sides of the object's box
    queryinst.DENOISING_WEIGHT = 1.0  # of their losses
    # Weights of the matching costs.
    queryinst.COST_CLASS = 2.0
    queryinst.COST_L1 = 5.0
    queryinst.COST_GIOU = 2.0


def _add_training_keys(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # "ADAMW" or "SGD"
    # Learning rate factor of backbone.bottom_up; the FPN learns at the full rate.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # What matrix products and convolutions run in with SOLVER.AMP.ENABLED: "fp16", on GPUs, with a
    # scaled loss, or "bf16", on GPUs and on processors that have instructions for it.
    cfg.SOLVER.AMP.PRECISION = "fp16"
    # The same for evaluation and prediction: "fp32", "fp16" or "bf16".
    cfg.TEST.PRECISION = "fp32"
    # Periodic checkpoints that are kept, the newest; 0 keeps all. model_best.pth and
    # model_final.pth do not count.
    cfg.SOLVER.CHECKPOINT_KEEP = 3
    # Minutes since the last checkpoint, after which one is due whatever CHECKPOINT_PERIOD says; 0.0
    # for never.
    cfg.SOLVER.CHECKPOINT_MINUTES = 0.0
    # Who resizes images and masks, in training, evaluation and prediction: "PIL", antialiased, as
    # Detectron2 does, or "OPENCV", as MMDetection does, for its published models.
    cfg.INPUT.RESIZE_WITH = "PIL"
    # Short sides in pixels, one of which an image is resized to before INPUT.CROP cuts it
    # (TYPE "absolute_range"): the second branch of DETR's augmentation.
    cfg.INPUT.CROP.RESIZE_BEFORE = (400, 500, 600)
    # Probability that objects of another image are pasted into an image of the training.
    cfg.INPUT.COPY_PASTE = 0.0
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS  # height x width of an image file; a larger one is refused
    # Parts whose activations the backward pass computes again, which costs time and saves memory:
    # any of "backbone" (the stages of bottom_up), "box_heads" (with their pooling), "mask_heads".
    cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING = ()
    # Parts that a batch of IMS_PER_BATCH images runs in, one after the other, for one step.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Steps in a row that are left out, each with a warning, if a loss or gradient is not finite;
    # one more ends the run. 0: the first one does.
    cfg.SOLVER.SKIP_NONFINITE = 0
    # An exponential moving average of the weights over the steps: what evaluation, model_best.pth
    # and "model" of each checkpoint hold. The decay of the n-th step is min(DECAY, n / (9 + n)).
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999  # share of the average that a step keeps; >= 0, < 1
    # Evaluations without a better TEST.BEST_METRIC after which the training ends as if it were
    # done; 0 for never.
    cfg.TEST.EARLY_STOPPING_PATIENCE = 0
    # Compute the losses of DATASETS.TEST[0] in each evaluation of a training.
    cfg.TEST.VALIDATION_LOSS = False
    # What gets the metrics of a training beside files: any of "wandb" and "mlflow".
    cfg.WRITERS = ()
    # Minutes that a process waits for the others, with NCCL and gloo, before the run ends; > 0.
    cfg.DISTRIBUTED = CN()
    cfg.DISTRIBUTED.TIMEOUT_MINUTES = 30.0
    # "task/metric" whose best value keeps model_best.pth; higher is better.
    cfg.TEST.BEST_METRIC = "segm/AP"
