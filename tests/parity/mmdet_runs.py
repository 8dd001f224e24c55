"""What MMDetection's QueryInst computes, quantity by quantity, under the names of `our_runs`.

Keys: input, fpn/p2, stage0/{boxes, class_logits, query_feats, mask_queries, pooled_box, matches,
pooled_mask, mask_targets, mask_logits}, loss/<name here>, grad/<MMDetection's name>, buffer/<same>,
image0/{topk, scores, boxes, mask_scores, output_boxes, output_masks}.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import mmdet_peer  # noqa: F401  before anything of mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from parity_inputs import Array, Objects
from torch import Tensor

Record = dict[str, Tensor]

# MMDetection's losses -> those here.
_LOSSES = {"cls": "cls", "bbox": "box_l1", "iou": "box_giou", "mask": "mask"}


def set_weights(model: torch.nn.Module, state: dict[str, Array], dtype: torch.dtype) -> None:
    """Fill the whole model, which then has `dtype`."""
    model.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in state.items()})
    model.to(dtype)


def training_run(
    model: torch.nn.Module, images: Sequence[Array], objects: Sequence[Objects], dtype: torch.dtype
) -> Record:
    """One forward and backward pass in training mode; gradients stay in the model."""
    model.train()
    model.zero_grad()
    batch = _batch(model, images, dtype)
    with _recording(model) as record, nothing_cast_to_float32(dtype):
        record["input"] = batch
        losses = model.loss(batch, _samples(images, objects, batch, dtype))
    for name, value in losses.items():
        stage, kind = name.removeprefix("s").split(".")
        if kind.startswith("loss_"):
            record[f"loss/loss_{_LOSSES[kind.removeprefix('loss_')]}_stage{stage}"] = value.detach()
    sum(value for name, value in losses.items() if "loss" in name).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            record[f"grad/{name}"] = parameter.grad
    for name, value in model.state_dict().items():
        if "running_" in name:
            record[f"buffer/{name}"] = value.clone()
    return record


@torch.no_grad()
def prediction_run(
    model: torch.nn.Module, images: Sequence[Array], output_sizes: Sequence[tuple], dtype
) -> Record:
    """Detections, scaled and pasted into pictures of `output_sizes` (height, width)."""
    model.eval()
    batch = _batch(model, images, dtype)
    samples = _samples(images, [_no_objects(image) for image in images], batch, dtype)
    for sample, image, (height, width) in zip(samples, images, output_sizes):
        ratios = (image.shape[1] / width, image.shape[0] / height)
        sample.set_metainfo(dict(ori_shape=(height, width), scale_factor=ratios))
    with _recording(model) as record:
        record["input"] = batch
        outputs = model.predict(batch, samples, rescale=True)
    record.pop(f"stage{len(model.roi_head.bbox_head) - 1}/pooled_mask")  # of every query
    mask_logits = _last(record, "mask_logits").unflatten(0, (len(images), -1))
    for image, output in enumerate(outputs):
        order = record[f"image{image}/topk"].argsort()
        kept = mask_logits[image].flatten(0, 1)[record[f"image{image}/topk"]]
        record[f"image{image}/mask_scores"] = kept.sigmoid()
        for key in ("topk", "scores", "boxes", "mask_scores"):
            record[f"image{image}/{key}"] = record[f"image{image}/{key}"][order]
        predictions = output.pred_instances
        record[f"image{image}/output_boxes"] = predictions.bboxes[order]
        record[f"image{image}/output_masks"] = predictions.masks[order]
    return record


def _last(record: Record, name: str) -> Tensor:
    """Of the last stage that has it; taken out."""
    stage = max(int(key[5:].split("/")[0]) for key in record if key.endswith(f"/{name}"))
    return record.pop(f"stage{stage}/{name}")


def _no_objects(image: Array) -> Objects:
    empty = np.zeros((0, *image.shape[:2]), bool)
    return Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), empty)


def _batch(model: torch.nn.Module, images: Sequence[Array], dtype: torch.dtype) -> Tensor:
    """(N, 3, H, W), normalized by the model's own values, then padded to multiples of 32."""
    preprocessor = model.data_preprocessor
    height = -(-max(image.shape[0] for image in images) // 32) * 32
    width = -(-max(image.shape[1] for image in images) // 32) * 32
    batch = torch.zeros(len(images), 3, height, width, dtype=dtype)
    for padded, image in zip(batch, images):
        pixels = torch.from_numpy(image).permute(2, 0, 1).to(dtype)
        pixels = (pixels - preprocessor.mean.to(dtype)) / preprocessor.std.to(dtype)
        padded[:, : image.shape[0], : image.shape[1]] = pixels
    return batch


def _samples(images, objects: Sequence[Objects], batch: Tensor, dtype) -> list[DetDataSample]:
    samples = []
    padded = tuple(batch.shape[-2:])
    for image, truth in zip(images, objects):
        height, width = image.shape[:2]
        sample = DetDataSample()
        sample.set_metainfo(
            dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=padded)
        )
        sample.set_metainfo(dict(batch_input_shape=padded, scale_factor=(1.0, 1.0)))
        masks = BitmapMasks(truth.masks.astype(np.uint8), height, width).pad(padded, pad_val=0)
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(truth.boxes).to(dtype),
            labels=torch.from_numpy(truth.classes),
            masks=masks,
        )
        samples.append(sample)
    return samples


@contextmanager
def nothing_cast_to_float32(dtype: torch.dtype):
    """The losses call `.float()` on targets and counts, which would cap float64 at 4e-8."""
    original = torch.Tensor.float
    if dtype == torch.float64:
        torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = original


@contextmanager
def _recording(model: torch.nn.Module):
    """Everything that passes by, in a dictionary."""
    recorder = _Recorder(model)
    handles = recorder.hook()
    try:
        yield recorder.record
    finally:
        for handle in handles:
            handle.remove()
        for owner, name in recorder.wrapped:
            delattr(owner, name)  # the class's own method shows again


class _Recorder:
    def __init__(self, model: torch.nn.Module):
        self.model, self.record, self.stage = model, {}, 0
        self.wrapped: list[tuple[Any, str]] = []

    def hook(self) -> list:
        roi_head = self.model.roi_head
        self._wrap(roi_head, "_bbox_forward", self._stage_output)
        self._wrap(roi_head, "bbox_loss", self._matches)
        self._wrap(roi_head, "_mask_forward", self._mask_logits)
        self._wrap(roi_head, "mask_loss", self._mask_targets)
        self._wrap(roi_head, "predict_bbox", self._detections)
        hooks = [(self.model.neck, self._fpn)]
        hooks += [(extractor, self._pooled_box) for extractor in roi_head.bbox_roi_extractor]
        hooks += [(extractor, self._pooled_mask) for extractor in roi_head.mask_roi_extractor]
        return [module.register_forward_hook(hook) for module, hook in hooks]

    def _wrap(self, owner: Any, name: str, record) -> None:
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            result = original(*args, **kwargs)
            record(result, *args)
            return result

        setattr(owner, name, wrapper)
        self.wrapped.append((owner, name))

    def _put(self, name: str, value: Tensor) -> None:
        self.record[f"stage{self.stage}/{name}"] = value.detach().clone()

    def _fpn(self, module, inputs, outputs) -> None:
        for level, value in enumerate(outputs, start=2):
            self.record[f"fpn/p{level}"] = value.detach()

    def _pooled_box(self, module, inputs, output) -> None:
        self._pooled = output.detach()

    def _pooled_mask(self, module, inputs, output) -> None:
        self._put("pooled_mask", output)

    def _stage_output(self, result, stage: int, *args) -> None:
        self.stage = stage
        self._put("pooled_box", self._pooled)
        self._put("boxes", torch.stack(result["detached_proposals"]))
        for ours, theirs in _STAGE_OUTPUTS.items():
            self._put(ours, result[theirs])

    def _matches(self, result, *args) -> None:
        query_rows, object_rows, first = [], [], 0
        num_queries = self.record["stage0/boxes"].shape[1]
        for image, sampled in enumerate(result["sampling_results"]):
            query_rows.append(sampled.pos_inds + image * num_queries)
            object_rows.append(sampled.pos_assigned_gt_inds + first)
            first += sampled.num_gts
        self._put("matches", torch.stack([torch.cat(query_rows), torch.cat(object_rows)]))

    def _mask_logits(self, result, *args) -> None:
        self._put("mask_logits", result["mask_preds"])

    def _mask_targets(self, result, *args) -> None:
        self._put("mask_targets", result["mask_targets"].reshape(-1, 28, 28) > 0.5)

    def _detections(self, results, *args) -> None:
        """Before rescaling."""
        for image, result in enumerate(results):
            self.record[f"image{image}/topk"] = result.topk_inds.clone()
            self.record[f"image{image}/scores"] = result.scores.clone()
            boxes = self.record[f"stage{self.stage}/boxes"][image]
            num_classes = self.record["stage0/class_logits"].shape[-1]
            self.record[f"image{image}/boxes"] = boxes[result.topk_inds // num_classes]


_STAGE_OUTPUTS = {
    "class_logits": "cls_score",
    "query_feats": "object_feats",
    "mask_queries": "attn_feats",
}
