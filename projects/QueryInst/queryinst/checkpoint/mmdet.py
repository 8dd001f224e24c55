"""MMDetection's checkpoints: how they are told from others. Their conversion is not there yet."""

from collections.abc import Iterable, Mapping
from typing import Any

_PREFIXES = ("roi_head.", "rpn_head.", "bbox_head.", "backbone.layer", "backbone.conv1.", "neck.")


def is_mmdet(names: Iterable[str]) -> bool:
    """Whether any tensor has a name that MMDetection's detectors use and this project doesn't."""
    return any(name.startswith(_PREFIXES) for name in names)


def convert_mmdet_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A QueryInst state dict in this project's names from one in MMDetection's.

    Raises:
        NotImplementedError: always, in this version.
    """
    raise NotImplementedError(
        f"these {len(state_dict)} tensors have MMDetection's names, which this version can't"
        " convert yet; give a checkpoint of this project or a backbone in MODEL.WEIGHTS"
    )
