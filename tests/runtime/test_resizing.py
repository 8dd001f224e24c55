"""Resizing and normalizing as Detectron2, OpenCV and QueryInst do."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from queryinst import QueryInst
from queryinst.data.resize import OpenCVResizeShortestEdge
from queryinst.testing import tiny_cfg
from queryinst_runtime.resizing import network_size, resize, resize_plainly, to_batch

SIZES = [(480, 640), (640, 480), (33, 500), (500, 33), (100, 100), (7, 5), (801, 1333), (1, 3000)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("rule", [(800, 1333), (64, 100), (0, 100)])
def test_network_size_is_that_of_training(about, height, width, rule):
    about = dataclasses.replace(about, min_size_test=rule[0], max_size_test=rule[1])
    for library, augmentation in (
        ("PIL", T.ResizeShortestEdge),
        ("OPENCV", OpenCVResizeShortestEdge),
    ):
        about = dataclasses.replace(about, resize_with=library)
        expected = (height, width)
        if rule[0]:
            expected = augmentation.get_output_shape(height, width, *rule)
        expected = tuple(max(side, 1) for side in expected)
        assert network_size(height, width, about) == expected


@pytest.mark.parametrize("height, width", SIZES)
def test_network_size_fits_into_a_fixed_size_and_keeps_the_ratio(about, height, width):
    about = dataclasses.replace(about, min_size_test=800, max_size_test=1333, size=(320, 640))
    new = network_size(height, width, about)
    assert 1 <= new[0] <= 320 and 1 <= new[1] <= 640
    assert new[0] == 320 or new[1] == 640
    assert abs(new[0] - new[1] * height / width) <= 1 + height / width or min(new) == 1


@pytest.mark.parametrize("new", [(50, 70), (13, 200), (40, 60)])
def test_resize_gives_the_pixels_of_the_library(new):
    image = noise(40, 60)
    transform = T.ResizeTransform(40, 60, *new)
    assert np.array_equal(resize(image, new, "PIL"), transform.apply_image(image))
    assert np.array_equal(resize(image, new, "OPENCV"), cv2.resize(image, new[::-1]))
    difference = resize_plainly(image, new).astype(int) - cv2.resize(image, new[::-1])
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_to_batch_is_what_the_model_sees(about, input_format):
    model = QueryInst(tiny_cfg())
    about = dataclasses.replace(
        about,
        input_format=input_format,
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        pixel_std=tuple(model.pixel_std.flatten().tolist()),
        size_divisibility=model.backbone.size_divisibility,
    )
    images = [noise(40, 60), noise(50, 31)]
    batch, sizes = to_batch(images, about)
    in_order = [x if input_format == "RGB" else x[:, :, ::-1] for x in images]
    inputs = [{"image": torch.from_numpy(x.transpose(2, 0, 1).copy())} for x in in_order]
    expected = model.preprocess_image(inputs)
    torch.testing.assert_close(torch.from_numpy(batch), expected.tensor, atol=1e-6, rtol=0)
    assert sizes.tolist() == [[40, 60], [50, 31]] and batch.shape == (2, 3, 64, 64)
