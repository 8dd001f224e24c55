"""The device a model runs on, with and without GPUs (pretended)."""

import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils import logger

from queryinst.devices import resolve_device
from queryinst.engine.setup import with_device


@pytest.fixture
def gpus(monkeypatch):
    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name, num_gpus", [("cpu", 0), ("cpu", 1), ("cuda", 1), ("cuda:1", 2)])
def test_resolve_device_gives_a_device_that_is_there(gpus, name, num_gpus, training):
    gpus(num_gpus)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = name
    assert resolve_device(cfg, training=training) == name
    assert resolve_device(name, training=training) == name


def test_resolve_device_names_the_key_when_training_lacks_a_gpu(gpus):
    gpus(0)
    with pytest.raises(ValueError, match="'cuda'.*MODEL.DEVICE cpu"):
        resolve_device(get_cfg(), training=True)


def test_resolve_device_falls_back_with_one_warning(gpus, caplog, monkeypatch):
    gpus(0)
    monkeypatch.setattr(logger, "_LOG_COUNTER", type(logger._LOG_COUNTER)())
    with caplog.at_level(logging.WARNING):
        assert [resolve_device(get_cfg(), training=False) for _ in range(3)] == ["cpu"] * 3
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1 and "'cuda'" in warnings[0]


def test_resolve_device_refuses_a_gpu_that_is_not_there(gpus):
    gpus(1)
    with pytest.raises(ValueError, match="'cuda:1' does not exist, torch finds 1 GPUs"):
        resolve_device("cuda:1", training=False)


def test_resolve_device_refuses_the_name_of_no_device():
    with pytest.raises(ValueError, match="'gpu' is no device; set MODEL.DEVICE"):
        resolve_device("gpu", training=False)


@pytest.mark.parametrize("name", ["vulkan", "hpu:3", "x" * 1000, "", None, 0.5, (), -1])
def test_resolve_device_refuses_what_this_torch_lacks_in_one_short_line(name):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = name
    with pytest.raises(ValueError, match="set MODEL.DEVICE") as raised:
        resolve_device(cfg, training=False)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_resolve_device_builds_without_memory_but_no_run_computes_so():
    assert resolve_device("meta", training=False) == "meta"
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "meta"
    with pytest.raises(ValueError, match="'meta' computes nothing; set MODEL.DEVICE"):
        with_device(cfg, training=False)
