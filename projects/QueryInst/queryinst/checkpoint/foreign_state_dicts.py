"""MMDetection's names in ``load_state_dict``: all is loaded, or nothing.

Detectron2's checkpointer passes a bare state dict to the model with ``strict=False``, and only
warns about missing and unexpected keys.
"""

import logging
from typing import Any

from torch import Tensor, nn

from .loading import match_state_dict
from .mmdet import is_mmdet

logger = logging.getLogger(__name__)


def install_state_dict_hook(model: nn.Module) -> None:
    """Let ``model.load_state_dict`` convert a QueryInst's state dict in MMDetection's names.

    For such a state dict ``strict=False`` has no effect: `loading.match_state_dict` has the rules,
    `partial` in training mode. If it does not fit, ``load_state_dict`` raises a ValueError or
    KeyError of one line, and the model is unchanged. Other state dicts are loaded as usual.

    Args:
        model: can be copied and pickled. Its attribute `allow_unloaded`, if any, has patterns of
            parameters that a state dict may lack.
    """
    model.register_load_state_dict_pre_hook(_convert_mmdet_names)


def _convert_mmdet_names(
    model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Replace the content of `state_dict`, a copy that torch made, if it is MMDetection's.

    Args:
        prefix: of the model's names, if it is a part of another module.
    """
    given = {n.removeprefix(prefix): v for n, v in state_dict.items() if n.startswith(prefix)}
    own = model.state_dict()
    if not is_mmdet(name for name in given if name not in own):
        return
    matched = match_state_dict(
        own,
        given,
        label="a state dict in MMDetection's names",
        partial=model.training,
        allow_unloaded=getattr(model, "allow_unloaded", ()),
    )
    for note in matched.notes:
        logger.info("%s", note)
    for name in given:
        del state_dict[prefix + name]
    # A parameter without a tensor gets its own value, so that no key is missing.
    state_dict.update({prefix + name: value for name, value in {**own, **matched.tensors}.items()})
