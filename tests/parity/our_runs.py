"""What this project's QueryInst computes, under the same names as `mmdet_runs`.

Keys: input, fpn/p2, stage0/{boxes, class_logits, query_feats, mask_queries, pooled_box, matches,
pooled_mask, mask_targets, mask_logits}, loss/<name>, grad/<name>, buffer/<name>,
image0/{topk, scores, boxes, mask_scores, output_topk, output_boxes, output_masks}; the last three
of the detections that are not dropped.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from parity_inputs import Array, Objects
from torch import Tensor

import queryinst.modeling.criterion as criterion
from queryinst import model_zoo
from queryinst.checkpoint import convert_mmdet_state_dict
from queryinst.modeling.meta_arch import whole_batch
from queryinst.structures import PreciseBoxes
from queryinst.testing import tiny_cfg

Record = dict[str, Tensor]


def narrow_cfg(
    *, stages: int, queries: int, embed_dim: int, num_heads: int, ffn_dim: int, dynamic_dim: int,
    num_classes: int, base_channels: int,
) -> CfgNode:  # fmt: skip
    """The configuration of `mmdet_peer.narrow`'s model."""
    return tiny_cfg(
        MODEL__RESNETS__RES2_OUT_CHANNELS=base_channels * 4,
        MODEL__RESNETS__WIDTH_PER_GROUP=base_channels,
        MODEL__FPN__OUT_CHANNELS=embed_dim,
        MODEL__ROI_HEADS__NUM_CLASSES=num_classes,
        MODEL__ROI_MASK_HEAD__CONV_DIM=embed_dim,
        MODEL__QUERYINST__NUM_QUERIES=queries,
        MODEL__QUERYINST__NUM_STAGES=stages,
        MODEL__QUERYINST__EMBED_DIM=embed_dim,
        MODEL__QUERYINST__NUM_HEADS=num_heads,
        MODEL__QUERYINST__FFN_DIM=ffn_dim,
        MODEL__QUERYINST__DYNAMIC_DIM=dynamic_dim,
        TEST__DETECTIONS_PER_IMAGE=queries,
    )


def zoo_cfg(name: str) -> CfgNode:
    """Of a zoo model, on the CPU, with as many detections as MMDetection keeps."""
    cfg = model_zoo.get_config(f"COCO-InstanceSegmentation/{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.DETECTIONS_PER_IMAGE = cfg.MODEL.QUERYINST.NUM_QUERIES
    return cfg


def build(cfg: CfgNode, state: dict[str, Array], dtype: torch.dtype) -> torch.nn.Module:
    """The model with MMDetection's weights, every one of them used."""
    model = build_model(cfg)
    set_weights(model, state, dtype)
    return model


def set_weights(model: torch.nn.Module, state: dict[str, Array], dtype: torch.dtype) -> None:
    theirs = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    model.load_state_dict(convert_mmdet_state_dict(theirs), strict=True)
    model.to(dtype)


def training_run(
    model: torch.nn.Module, images: Sequence[Array], objects: Sequence[Objects], dtype: torch.dtype
) -> Record:
    """One forward and backward pass in training mode; gradients stay in the model."""
    model.train()
    model.zero_grad()
    with _recording(model) as record, EventStorage():
        losses = model(training_inputs(images, objects, dtype))
    record.update({f"loss/{name}": value.detach() for name, value in losses.items()})
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            record[f"grad/{name}"] = parameter.grad
    for name, value in model.state_dict().items():
        if "running_" in name:
            record[f"buffer/{name}"] = value.clone()
    return record


def training_inputs(
    images: Sequence[Array], objects: Sequence[Objects], dtype: torch.dtype
) -> list[dict]:
    """What the data loader would give, its boxes in `dtype`."""
    inputs = []
    for image, truth in zip(images, objects):
        instances = Instances(image.shape[:2])
        instances.gt_boxes = PreciseBoxes(torch.from_numpy(truth.boxes).to(dtype))
        instances.gt_classes = torch.from_numpy(truth.classes)
        instances.gt_masks = BitMasks(torch.from_numpy(truth.masks))
        inputs.append({"image": _pixels(image), "instances": instances})
    return inputs


@torch.no_grad()
def prediction_run(
    model: torch.nn.Module, images: Sequence[Array], output_sizes: Sequence[tuple]
) -> Record:
    """Detections in the resized images, and pasted into pictures of `output_sizes`."""
    model.eval()
    inputs = [
        {"image": _pixels(image), "height": height, "width": width}
        for image, (height, width) in zip(images, output_sizes)
    ]
    together = mock.patch.object(model, "split_batch", whole_batch)
    with _recording(model) as record, together:  # of what passes by, the last is recorded
        resized = model.inference(inputs, do_postprocess=False)
    pasted = [output["instances"] for output in model(inputs)]
    num_classes = record["stage0/class_logits"].shape[-1]
    for image, (before, after) in enumerate(zip(resized, pasted)):
        topk = before.query_idx * num_classes + before.pred_classes
        output_topk = after.query_idx * num_classes + after.pred_classes
        assert topk[torch.isin(topk, output_topk)].equal(output_topk), "in their order"
        values = {
            "topk": topk,
            "scores": before.scores,
            "boxes": before.pred_boxes.tensor,
            "mask_scores": before.pred_masks[:, 0],
        }
        outputs = {
            "output_topk": output_topk,
            "output_boxes": after.pred_boxes.tensor,
            "output_masks": after.pred_masks,
        }
        for order, group in ((topk.argsort(), values), (output_topk.argsort(), outputs)):
            record.update({f"image{image}/{key}": value[order] for key, value in group.items()})
    return record


def _pixels(image: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@contextmanager
def _recording(model: torch.nn.Module):
    """Everything that passes by, in a dictionary."""
    recorder = _Recorder(model)
    hooks = [
        model.backbone.register_forward_hook(recorder.features),
        model.cascade.register_forward_hook(recorder.stages),
        model.cascade.pooler.register_forward_hook(recorder.pooled_box),
        model.mask_head.pooler.register_forward_hook(recorder.pooled_mask),
        model.mask_head.register_forward_hook(recorder.mask_logits),
    ]
    crop = mock.patch.object(criterion, "crop_gt_masks", recorder.watch_targets())
    match = mock.patch.object(model, "matcher", recorder.watch_matches(model.matcher))
    try:
        with crop, match:
            yield recorder.record
    finally:
        for hook in hooks:
            hook.remove()


class _Recorder:
    def __init__(self, model: torch.nn.Module):
        self.record: Record = {}
        self.num_stages = len(model.cascade.stages)
        self._num_pooled = 0

    def features(self, module, inputs, outputs) -> None:
        self.record["input"] = inputs[0].detach()
        for level in ("p2", "p3", "p4", "p5"):
            self.record[f"fpn/{level}"] = outputs[level].detach()

    def stages(self, module, inputs, outputs) -> None:
        for stage, output in enumerate(outputs):
            for key in ("boxes", "class_logits", "query_feats", "mask_queries"):
                self.record[f"stage{stage}/{key}"] = getattr(output, key).detach()

    def pooled_box(self, module, inputs, output) -> None:
        self.record[f"stage{self._num_pooled}/pooled_box"] = output.detach()
        self._num_pooled += 1

    def pooled_mask(self, module, inputs, output) -> None:
        """In training of all stages in one tensor; in inference of the kept queries alone."""
        if module.training:
            self._split("pooled_mask", output)

    def mask_logits(self, module, inputs, outputs) -> None:
        for stage, logits in enumerate(outputs):
            self.record[f"stage{stage}/mask_logits"] = logits.detach().clone()

    def _split(self, key: str, values: Tensor) -> None:
        for stage, part in enumerate(values.detach().tensor_split(self.num_stages)):
            self.record[f"stage{stage}/{key}"] = part

    def watch_targets(self):
        original = criterion.crop_gt_masks

        def crop(*args, **kwargs):
            targets = original(*args, **kwargs)
            for stage, part in enumerate(targets):  # (S, M, 28, 28)
                self.record[f"stage{stage}/mask_targets"] = part > 0.5
            return targets

        return crop

    def watch_matches(self, matcher):
        def match(outputs, targets):
            matches = matcher(outputs, targets)
            for stage, pairs in enumerate(matches):
                self.record[f"stage{stage}/matches"] = torch.stack([*pairs])
            return matches

        return match
