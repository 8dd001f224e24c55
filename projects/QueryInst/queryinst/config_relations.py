"""What keys have to do with each other: functions of cfg.MODEL, which return a problem or None."""

from detectron2.config import CfgNode

# Numbers of values that MODEL.PIXEL_MEAN may hold; one channel also makes three by broadcasting.
CHANNELS = {"RGB": (3,), "BGR": (3,), "YUV-BT.601": (3,), "L": (1, 3)}
_STATISTICS = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # norms that have them
_MAX_WEIGHTS = 4_000_000_000  # 16 GB in float32


def pixels(cfg: CfgNode) -> str | None:
    """Of the whole configuration: means, deviations and the channels of an image."""
    allowed = CHANNELS[cfg.INPUT.FORMAT]
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = list(cfg.MODEL[key])
        if len(values) not in allowed or len(values) != len(cfg.MODEL.PIXEL_MEAN):
            return (
                f"{values} must hold {' or '.join(map(str, allowed))} values (equally many in mean"
                f" and deviation, with INPUT.FORMAT {cfg.INPUT.FORMAT!r}); set MODEL.{key}"
            )
    return None


def copy_paste(cfg: CfgNode) -> str | None:
    """Of the whole configuration: what objects are cut out by, and from which images."""
    value, sampler = cfg.INPUT.COPY_PASTE, cfg.DATALOADER.SAMPLER_TRAIN
    if value and not cfg.MODEL.MASK_ON:
        return (
            f"INPUT.COPY_PASTE {value} cuts objects out by their masks; set MODEL.MASK_ON True, or"
            " INPUT.COPY_PASTE 0"
        )
    if value and sampler == "RandomSubsetTrainingSampler":
        return (
            f"INPUT.COPY_PASTE {value} takes objects of all training images, which {sampler} does "
            "not; set one of them and DATALOADER.SAMPLER_TRAIN"
        )
    return None


def precise_bn(cfg: CfgNode) -> str | None:
    """Of the whole configuration: Detectron2's statistics take layers that run once a step."""
    groups, norm = cfg.MODEL.QUERYINST.DENOISING_GROUPS, cfg.MODEL.ROI_MASK_HEAD.NORM
    runs_twice = groups and cfg.MODEL.MASK_ON and norm in _STATISTICS
    if cfg.TEST.PRECISE_BN.ENABLED and runs_twice:
        return (
            f"TEST.PRECISE_BN.ENABLED True cannot follow mask heads with {norm} that denoising runs"
            f" once more; set it False, or MODEL.QUERYINST.DENOISING_GROUPS 0 instead of {groups}"
        )
    return None


def _heads(model: CfgNode) -> str | None:
    embed_dim, num_heads = model.QUERYINST.EMBED_DIM, model.QUERYINST.NUM_HEADS
    if embed_dim % num_heads:
        return (
            f"{embed_dim} channels must be a multiple of {num_heads} heads; "
            "set MODEL.QUERYINST.EMBED_DIM or MODEL.QUERYINST.NUM_HEADS"
        )
    return None


def _resnet(model: CfgNode) -> str | None:
    """Detectron2 asserts it, in part without a message."""
    resnets = model.RESNETS
    deforms, groups = any(resnets.DEFORM_ON_PER_STAGE), resnets.DEFORM_NUM_GROUPS
    if deforms and (resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP) % groups:
        return f"{groups} must divide the channels; set MODEL.RESNETS.DEFORM_NUM_GROUPS"
    needed = {"RES2_OUT_CHANNELS": 64, "NUM_GROUPS": 1, "RES5_DILATION": 1}
    for name, value in needed.items() if resnets.DEPTH in (18, 34) else ():
        if resnets[name] != value:
            return (
                f"{resnets[name]} must be {value} with MODEL.RESNETS.DEPTH {resnets.DEPTH}; "
                f"set MODEL.RESNETS.{name}"
            )
    if deforms and resnets.DEPTH in (18, 34):
        return f"MODEL.RESNETS.DEFORM_ON_PER_STAGE must be False with DEPTH {resnets.DEPTH}"
    return None


def _fpn(model: CfgNode) -> str | None:
    if not model.BACKBONE.NAME.startswith("build_resnet_fpn"):
        return None
    levels, wanted = list(model.RESNETS.OUT_FEATURES), list(model.FPN.IN_FEATURES)
    stages = ["res2", "res3", "res4", "res5"]
    if not wanted or f"{wanted}"[1:-1] not in f"{stages}" or not set(wanted) <= set(levels):
        return (
            f"{wanted} must be neighbours out of {stages} that MODEL.RESNETS.OUT_FEATURES {levels} "
            "has; set MODEL.FPN.IN_FEATURES"
        )
    if wanted[-1] != "res5":  # Detectron2 pools p6 from p5, whatever the coarsest level is
        return f"{wanted} must end with res5; set MODEL.FPN.IN_FEATURES"
    if model.RESNETS.RES5_DILATION != 1:
        return "2 must be 1 with res5 in MODEL.FPN.IN_FEATURES; set MODEL.RESNETS.RES5_DILATION"
    return None


def _group_norms(model: CfgNode) -> str | None:
    resnets = model.RESNETS
    in_resnet = [resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS]
    if resnets.DEPTH > 34:
        in_resnet.append(resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP)
    normed = {
        "RESNETS": in_resnet,
        "FPN": [model.FPN.OUT_CHANNELS],
        "ROI_MASK_HEAD": [model.ROI_MASK_HEAD.CONV_DIM],
    }
    for section, channels in normed.items():
        if model[section].NORM == "GN" and any(num % 32 for num in channels):
            return f"norm 'GN' takes multiples of 32 channels, {channels}; set MODEL.{section}.NORM"
    return None


def _size(model: CfgNode) -> str | None:
    """An estimate of the weights, so that no machine is asked for terabytes."""
    q, resnets, mask = model.QUERYINST, model.RESNETS, model.ROI_MASK_HEAD
    width, kernels = q.EMBED_DIM, 2 * q.EMBED_DIM**2 * q.DYNAMIC_DIM
    box_head = width**2 * (4 + q.NUM_CLS_FCS + q.NUM_REG_FCS) + 2 * width * q.FFN_DIM + kernels
    box_head += (width * model.ROI_BOX_HEAD.POOLER_RESOLUTION) ** 2
    box_head += width * model.ROI_HEADS.NUM_CLASSES
    mask_head = kernels + (9 * mask.NUM_CONV + 4) * mask.CONV_DIM**2
    mask_head += mask.CONV_DIM * model.ROI_HEADS.NUM_CLASSES
    bottleneck = 8 * resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    res5 = 3 * bottleneck * (9 * bottleneck // resnets.NUM_GROUPS + 16 * resnets.RES2_OUT_CHANNELS)
    num_weights = q.NUM_STAGES * (box_head + mask_head * model.MASK_ON) + 2 * res5
    if num_weights > _MAX_WEIGHTS:
        return (
            f"the model has about {num_weights / 1e9:.0f} billion weights, which must be <= "
            f"{_MAX_WEIGHTS / 1e9:.0f}; set MODEL.QUERYINST, MODEL.ROI_*_HEAD or MODEL.RESNETS"
        )
    return None


RELATIONS = (_heads, _resnet, _fpn, _group_norms, _size)
