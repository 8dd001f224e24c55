"""Which project's names a file uses, and the explicit rules that turn them into this project's."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .mmdet import convert_mmdet_state_dict, is_mmdet, twin_names
from .tensors import unsupported_kind

BOTTOM_UP = "backbone.bottom_up."
_MAX_NAME = 500  # characters of a tensor's name
_SECOND = "ema_state_dict"

Rules = Sequence[tuple[str, str]]  # (pattern of a whole name, template), first fit

_NORM_STATS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def _torchvision_rules() -> Rules:
    rules = [
        (r"conv1\.weight", r"stem.conv1.weight"),
        (rf"bn1\.{_NORM_STATS}", r"stem.conv1.norm.\1"),
    ]
    for layer in range(1, 5):
        block, ours = rf"layer{layer}\.(\d+)", rf"res{layer + 1}.\1"
        rules += [
            (rf"{block}\.conv(\d)\.weight", rf"{ours}.conv\2.weight"),
            (rf"{block}\.bn(\d)\.{_NORM_STATS}", rf"{ours}.conv\2.norm.\3"),
            (rf"{block}\.downsample\.0\.weight", rf"{ours}.shortcut.weight"),
            (rf"{block}\.downsample\.1\.{_NORM_STATS}", rf"{ours}.shortcut.norm.\2"),
        ]
    return tuple(rules)


def _caffe2_rules() -> Rules:
    rules = [(r"conv1_w", r"stem.conv1.weight")]
    convs = [("res_conv1", "stem.conv1")]
    for branch, conv in (("1", "shortcut"), ("2a", "conv1"), ("2b", "conv2"), ("2c", "conv3")):
        convs.append((rf"(res\d)_(\d+)_branch{branch}", rf"\1.\2.{conv}"))
        rules.append((rf"(res\d)_(\d+)_branch{branch}_w", rf"\1.\2.{conv}.weight"))
    for theirs, ours in convs:
        rules += [
            (f"{theirs}_bn_s", f"{ours}.norm.weight"),
            (f"{theirs}_bn_b", f"{ours}.norm.bias"),
        ]
        rules += [(f"{theirs}_bn_rm", f"{ours}.norm.running_mean")]
        rules += [(f"{theirs}_bn_riv", f"{ours}.norm.running_var")]
    return tuple(rules)


TORCHVISION_RULES = _torchvision_rules()
CAFFE2_RULES = _caffe2_rules()

# Unexpected keys that a backbone file may have: its classifier; in Caffe2 files the bias of conv1,
# which Detectron never applied, and the optimizer's momenta.
_IGNORED_OF_BACKBONE = re.compile(
    r"fc\..*|stem\.fc\..*|linear\..*|fc1000_[wb]|pred_[wb]|conv1_b|.*_momentum"
)


def tensors_of(checkpoint: Any, label: str) -> dict[str, Tensor]:
    """The state dict in what a checkpoint file holds, by the file's own names.

    Args:
        checkpoint: {"model": state dict, ...}, {"state_dict": ...}, {"blobs": ...}, or one itself.

    Raises:
        ValueError: there is none, a key is not a name, or an entry is neither a dense tensor of
            real numbers nor a numeric array.
    """
    state = checkpoint
    if isinstance(checkpoint, Mapping):
        key = next((k for k in ("model", "state_dict", "blobs") if k in checkpoint), None)
        state = checkpoint if key is None else checkpoint[key]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{label} holds no weights, but {_outline(checkpoint)}")
    if unnamed := [name for name in state if not _is_name(name)]:
        example = "odd texts" if isinstance(unnamed[0], str) else f"a {type(unnamed[0]).__name__}"
        raise ValueError(
            f"{label} is not a checkpoint of a known layout: {len(unnamed)} of its {len(state)}"
            f" entries have no names, but {example} for keys"
        )
    for name, value in state.items():
        if kind := unsupported_kind(value):
            raise ValueError(
                f"{label} is not loaded: its tensor {name} is {kind}; weights must be dense tensors"
                " of real numbers"
            )
    tensors = {name: _as_tensor(value) for name, value in state.items()}
    if foreign := [name for name, value in tensors.items() if value is None]:
        raise ValueError(
            f"{label} is not a checkpoint of a known layout: {len(foreign)} of its {len(tensors)}"
            f" entries are not tensors, first {foreign[0]!r} ({type(state[foreign[0]]).__name__})"
        )
    return _without_prefix({n: v for n, v in tensors.items() if v is not None}, "module.")


def second_tensors_of(checkpoint: Any, label: str) -> dict[str, Tensor]:
    """What --ema takes: the second set that a run of MMDetection with an EMAHook leaves.

    Of MMDetection 2.x these are the `twin_names` in the state dict; what has none is as in the
    first set. Of 3.x they are "ema_state_dict". A checkpoint of this project has its averages as
    "model", so that these are taken.

    Raises:
        ValueError: as `tensors_of`; or there is only one set.
    """
    if is_average(checkpoint):
        return tensors_of(checkpoint, label)
    if has_second_state_dict(checkpoint):
        second = checkpoint[_SECOND]
        if isinstance(second, Mapping):  # "steps" counts what MMEngine has averaged
            second = {name: value for name, value in second.items() if name != "steps"}
        return tensors_of({"state_dict": second}, f"{label}: {_SECOND}")
    tensors = tensors_of(checkpoint, label)
    twins = twin_names(tensors)
    if not twins:
        raise ValueError(
            f"{label} has one set of weights, neither keys 'ema_...' beside others in its state"
            f" dict nor {_SECOND!r}; leave out --ema"
        )
    seconds = set(twins.values())
    return {n: tensors[twins.get(n, n)] for n in tensors if n not in seconds}


def has_second_state_dict(checkpoint: Any) -> bool:
    """Whether a file of MMDetection 3.x has a second set of weights."""
    return isinstance(checkpoint, Mapping) and "state_dict" in checkpoint and _SECOND in checkpoint


def is_average(checkpoint: Any) -> bool:
    """Whether a checkpoint is of a training with SOLVER.EMA: its "model" is the average."""
    ema = checkpoint.get("ema") if isinstance(checkpoint, Mapping) else None
    return isinstance(ema, Mapping) and "trained" in ema and "model" in checkpoint


def note_on_second_tensors(checkpoint: Any, names: Collection[str]) -> str:
    """What the log says of a file with two sets of weights, the first of which is taken, or "".

    Args:
        checkpoint: the file's content, or None for `names` alone.
        names: of a state dict.
    """
    twins = twin_names(names)
    if not twins and not has_second_state_dict(checkpoint):
        return ""
    where = f"its {len(twins)} keys 'ema_...'" if twins else f"its {_SECOND!r}"
    return (
        f"two sets of weights, as EMAHook leaves them: the plain keys are taken, {where} left out;"
        " tools/convert_checkpoint.py --ema takes these"
    )


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= _MAX_NAME and key.isprintable()


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        # A copy: the file's arrays may be read-only or of another byte order.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), copy=True))
    return None


def _outline(checkpoint: Any) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"a {type(checkpoint).__name__}"
    names = sorted(str(key)[:80] for key in checkpoint)
    return f"the keys {names[:5]}" if names else "an empty dict"


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the prefix that DistributedDataParallel puts in front of every name."""
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name[len(prefix) :]: value for name, value in tensors.items()}


def to_model_names(
    tensors: Mapping[str, Tensor], model_names: Collection[str]
) -> dict[str, Tensor]:
    """Rename a file's tensors to the model's names; the names tell the layout.

    Supports this project's and MMDetection's names, torchvision's and Caffe2's ResNets, and
    bottom_up by itself in Detectron2's names. A tensor that no rule supports keeps its name, and
    so becomes an unexpected key.

    Raises:
        KeyError: the names are MMDetection's, and no rule supports one of them.
    """
    if any(name in model_names for name in tensors):
        return dict(tensors)
    if is_mmdet(tensors):
        return convert_mmdet_state_dict(tensors)
    if "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        return _rename_backbone(tensors, TORCHVISION_RULES)
    if "conv1_w" in tensors and "res2_0_branch2a_w" in tensors:
        return _with_neutral_statistics(_rename_backbone(tensors, CAFFE2_RULES))
    if any(BOTTOM_UP + name in model_names for name in tensors):
        return _rename_backbone(tensors, [(r"(.+)", r"\1")])
    return dict(tensors)


def _rename_backbone(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        if _IGNORED_OF_BACKBONE.fullmatch(name):
            continue
        renamed[_apply(rules, name)] = value
    return renamed


def _apply(rules: Rules, name: str) -> str:
    for pattern, template in rules:
        if match := re.fullmatch(pattern, name):
            return BOTTOM_UP + match.expand(template)
    return name


def _with_neutral_statistics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's files fold batch norms into their affine part: mean 0, variance + eps 1."""
    norms = [n for n, v in tensors.items() if n.endswith(".norm.weight") and v.is_floating_point()]
    for name in norms:
        norm, weight = name.removesuffix("weight"), tensors[name]
        tensors.setdefault(norm + "running_mean", torch.zeros_like(weight))
        tensors.setdefault(norm + "running_var", torch.ones_like(weight) - 1e-5)
    return tensors
