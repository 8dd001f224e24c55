"""What MMDetection's data loader gives, from images and objects in memory."""

import mmdet_peer  # noqa: F401  before anything of mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from parity_cases import Batch


def as_mmdet_data(batch: Batch) -> dict:
    """Inputs of `train_step` and `test_step`: images and their samples.

    Args:
        batch: images (H, W, 3), uint8, RGB; objects in pixels of these images.

    Returns:
        "inputs": (3, H, W), uint8, BGR, each; "data_samples", one each.
    """
    samples = []
    for image, truth, output_size in zip(batch.images, batch.objects, batch.output_sizes):
        height, width = image.shape[:2]
        ratios = (width / output_size[1], height / output_size[0])
        sample = DetDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=output_size, scale_factor=ratios)
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(truth.boxes),
            labels=torch.from_numpy(truth.classes),
            masks=BitmapMasks(truth.masks.astype(np.uint8), height, width),
        )
        samples.append(sample)
    bgr = [np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)) for image in batch.images]
    return {"inputs": [torch.from_numpy(image) for image in bgr], "data_samples": samples}
