"""The model that a configuration asks for: the plain one, its speed-ups, and rules for loading."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from .checkpoint.foreign_state_dicts import install_state_dict_hook
from .config_limits import check_limits
from .modeling import QueryInst
from .speedups import speed_up_model


def equip(model: QueryInst, cfg: CfgNode) -> QueryInst:
    """Add what surrounds the algorithm to a plain model, in place.

    Args:
        model: a QueryInst, or of a class derived from it.
        cfg: MODEL.QUERYINST.SPEEDUPS and MODEL.QUERYINST.ALLOW_UNLOADED are read.

    Raises:
        ValueError: SPEEDUPS has an unknown name; lists the known ones.
    """
    speed_up_model(model, cfg.MODEL.QUERYINST.SPEEDUPS)
    setattr(model, "allow_unloaded", tuple(cfg.MODEL.QUERYINST.ALLOW_UNLOADED))  # for checkpoint/
    install_state_dict_hook(model)
    return model


def build_queryinst(cfg: CfgNode) -> QueryInst:
    """Build the model of MODEL.META_ARCHITECTURE "QueryInst", for Detectron2's ``build_model``.

    Raises:
        ValueError: an impossible value; names it and its key.
    """
    check_limits(cfg)
    return equip(QueryInst(cfg), cfg)


build_queryinst.__name__ = "QueryInst"  # the name to register it by
META_ARCH_REGISTRY.register(build_queryinst)
