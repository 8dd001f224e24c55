"""MMDetection's names of a QueryInst (2.x, 3.x and the authors' files), to ours and back.

One table serves both directions. Values stay as they are, except biases before batch norms.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

# Parts of a name that are equal on both sides.
_PLACEHOLDERS = {
    "stage": r"\d+",
    "block": r"\d+",
    "conv": r"\d+",
    "norm": r"norm_in|norm_out",
    "param": r"\w+",
}
_MAX_HIDDEN_LAYERS = 16  # of the class and the box branch


def _bottom_up() -> Iterable[tuple[str, str]]:
    ours = "backbone.bottom_up."
    yield "backbone.conv1.{param}", ours + "stem.conv1.{param}"
    yield "backbone.bn1.{param}", ours + "stem.conv1.norm.{param}"
    for layer in range(1, 5):
        theirs, block = f"backbone.layer{layer}.{{block}}.", f"{ours}res{layer + 1}.{{block}}."
        yield theirs + "conv{conv}.{param}", block + "conv{conv}.{param}"
        yield theirs + "bn{conv}.{param}", block + "conv{conv}.norm.{param}"
        yield theirs + "downsample.0.{param}", block + "shortcut.{param}"
        yield theirs + "downsample.1.{param}", block + "shortcut.norm.{param}"


def _fpn() -> Iterable[tuple[str, str]]:
    for level in range(4):
        theirs = f"convs.{level}.conv.{{param}}"
        yield f"neck.lateral_{theirs}", f"backbone.fpn_lateral{level + 2}.{{param}}"
        yield f"neck.fpn_{theirs}", f"backbone.fpn_output{level + 2}.{{param}}"


def _box_heads() -> Iterable[tuple[str, str]]:
    theirs, ours = "roi_head.bbox_head.{stage}.", "cascade.stages.{stage}."
    interactive = theirs + "instance_interactive_conv"
    yield theirs + "attention.attn.in_proj_{param}", ours + "self_attn.in_proj_{param}"
    yield theirs + "attention.attn.out_proj.{param}", ours + "self_attn.out_proj.{param}"
    yield theirs + "attention_norm.{param}", ours + "self_attn_norm.{param}"
    yield interactive + ".dynamic_layer.{param}", ours + "dynamic_conv.kernel_generator.{param}"
    yield interactive + ".{norm}.{param}", ours + "dynamic_conv.{norm}.{param}"
    yield interactive + ".fc_layer.{param}", ours + "roi_proj.{param}"
    yield interactive + ".fc_norm.{param}", ours + "roi_proj_norm.{param}"
    yield interactive + "_norm.{param}", ours + "dynamic_conv_norm.{param}"
    yield theirs + "ffn.layers.0.0.{param}", ours + "ffn_in.{param}"
    yield theirs + "ffn.layers.1.{param}", ours + "ffn_out.{param}"
    yield theirs + "ffn_norm.{param}", ours + "ffn_norm.{param}"
    for branch in ("cls_fcs", "reg_fcs"):
        for layer in range(_MAX_HIDDEN_LAYERS):
            # Linear, LayerNorm and ReLU of all layers stand in one flat list.
            flat, nested = f"{theirs}{branch}.", f"{ours}{branch}.{layer}."
            yield f"{flat}{3 * layer}.{{param}}", nested + "linear.{param}"
            yield f"{flat}{3 * layer + 1}.{{param}}", nested + "norm.{param}"
    yield theirs + "fc_cls.{param}", ours + "cls_logits.{param}"
    yield theirs + "fc_reg.{param}", ours + "box_deltas.{param}"


def _mask_heads() -> Iterable[tuple[str, str]]:
    theirs, ours = "roi_head.mask_head.{stage}.", "mask_head.stages.{stage}."
    interactive = theirs + "instance_interactive_conv"
    yield interactive + ".dynamic_layer.{param}", ours + "dynamic_conv.kernel_generator.{param}"
    yield interactive + ".{norm}.{param}", ours + "dynamic_conv.{norm}.{param}"
    yield theirs + "convs.{conv}.conv.{param}", ours + "convs.{conv}.{param}"
    yield theirs + "convs.{conv}.bn.{param}", ours + "convs.{conv}.norm.{param}"
    yield theirs + "upsample.{param}", ours + "deconv.{param}"
    yield theirs + "conv_logits.{param}", ours + "mask_logits.{param}"


# (MMDetection's name, ours); every name fits one row at most.
KEY_TABLE: tuple[tuple[str, str], ...] = (
    *_bottom_up(),
    *_fpn(),
    ("rpn_head.init_proposal_bboxes.weight", "initial_queries.boxes_cxcywh_norm"),
    ("rpn_head.init_proposal_features.weight", "initial_queries.query_feats"),
    *_box_heads(),
    *_mask_heads(),
)

Rules = Sequence[tuple[re.Pattern[str], str]]  # (pattern of a whole name, template)


def _compile(table: Iterable[tuple[str, str]]) -> Rules:
    def pattern(template: str) -> str:
        parts = re.split(r"\{(\w+)\}", template)  # literal, placeholder, literal, ...
        for at, part in enumerate(parts):
            parts[at] = f"(?P<{part}>{_PLACEHOLDERS[part]})" if at % 2 else re.escape(part)
        return "".join(parts)

    return [(re.compile(pattern(source)), target) for source, target in table]


_TO_OURS = _compile(KEY_TABLE)
_TO_THEIRS = _compile((ours, theirs) for theirs, ours in KEY_TABLE)

# The backbone's classifier; the mean and deviation of the pixels, which the configuration sets.
_IGNORED_OF_THEIRS = re.compile(r"backbone\.fc\..+|data_preprocessor\..+")
_IGNORED_OF_OURS = re.compile(r"backbone\.bottom_up\.(stem\.)?(fc|linear)\..+|pixel_mean|pixel_std")
_BIAS_BEFORE_NORM = re.compile(r"(mask_head\.stages\.\d+\.convs\.\d+\.)bias")

_PREFIXES = ("roi_head.", "rpn_head.", "bbox_head.", "backbone.layer", "backbone.conv1.", "neck.")
_DISTRIBUTED = "module."  # DistributedDataParallel's prefix
_AVERAGE = "ema_"  # the prefix that EMAHook of MMCV and MMDetection 2.x gives its buffers


def is_mmdet(names: Iterable[str]) -> bool:
    """Whether any name is one that MMDetection's detectors use and this project does not."""
    return any(name.removeprefix(_DISTRIBUTED).startswith(_PREFIXES) for name in names)


def convert_mmdet_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A QueryInst state dict in this project's names from one in MMDetection's.

    The authors' files have biases before the mask heads' batch norms, which cancel them: each is
    subtracted from the running mean. `ignored_names` are left out, and of `twin_names` the second
    ones. The argument and its tensors stay as they are.

    Raises:
        KeyError: no rule supports a name, two names are one parameter, or the batch norm after a
            bias is missing. One line.
    """
    advice = "only QueryInst with a ResNet and an FPN can be converted"
    twins = set(twin_names(state_dict).values())
    single = {name: value for name, value in state_dict.items() if name not in twins}
    converted = _rename(single, _TO_OURS, _IGNORED_OF_THEIRS, advice)
    for name in [name for name in converted if _BIAS_BEFORE_NORM.fullmatch(name)]:
        bias, mean = converted.pop(name), name.removesuffix("bias") + "norm.running_mean"
        target = converted.get(mean)
        if target is None or target.shape != bias.shape or not target.is_floating_point():
            raise KeyError(f"the bias {name!r} has no batch norm {mean!r} of its size to go into")
        converted[mean] = converted[mean] - bias.to(converted[mean])
    return converted


def to_mmdet_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A QueryInst state dict in MMDetection's names from one in this project's.

    Raises:
        KeyError: no rule supports a name. One line.
    """
    advice = "only names of this project's QueryInst have names in MMDetection"
    return _rename(state_dict, _TO_THEIRS, _IGNORED_OF_OURS, advice)


def ignored_names(state_dict: Iterable[str]) -> list[str]:
    """The names of a file in MMDetection's layout that the conversion leaves out."""
    return [n for n in state_dict if _IGNORED_OF_THEIRS.fullmatch(n.removeprefix(_DISTRIBUTED))]


def twin_names(state_dict: Iterable[str]) -> dict[str, str]:
    """The keys of which MMDetection 2.x keeps two values, and the key of the second.

    Its EMAHook keeps a second set of weights in buffers of the model itself, and swaps both before
    a checkpoint is written: `backbone.conv1.weight` and `ema_backbone_conv1_weight`.
    """
    names = dict.fromkeys(state_dict)
    twins = {name: _twin(name) for name in names}
    return {name: twin for name, twin in twins.items() if twin in names}


def _twin(name: str) -> str:
    wrapper = _DISTRIBUTED if name.startswith(_DISTRIBUTED) else ""
    return f"{wrapper}{_AVERAGE}{name.removeprefix(wrapper).replace('.', '_')}"


def folded_names(state_dict: Iterable[str]) -> list[str]:
    """The names of a file in MMDetection's layout whose biases go into a batch norm."""
    pattern = re.compile(r"(module\.)?roi_head\.mask_head\.\d+\.convs\.\d+\.conv\.bias")
    return [name for name in state_dict if pattern.fullmatch(name)]


def _rename(
    state_dict: Mapping[str, Tensor], rules: Rules, ignored: re.Pattern[str], advice: str
) -> dict[str, Tensor]:
    is_wrapped = all(name.startswith(_DISTRIBUTED) for name in state_dict)
    renamed: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unsupported = []
    for source, value in state_dict.items():
        name = source.removeprefix(_DISTRIBUTED) if is_wrapped else source
        if ignored.fullmatch(name):
            continue
        target = _apply(rules, name)
        if target is None:
            unsupported.append(source)
        elif target in renamed:
            raise KeyError(f"{sources[target]!r} and {source!r} are both {target!r}")
        else:
            renamed[target], sources[target] = value, source
    if unsupported:
        raise KeyError(
            f"{len(unsupported)} of {len(state_dict)} checkpoint keys match no rule, first"
            f" {unsupported[0]!r}; {advice}"
        )
    return renamed


def _apply(rules: Rules, name: str) -> str | None:
    for pattern, template in rules:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return None
