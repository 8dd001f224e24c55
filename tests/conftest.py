"""What tests of whole runs share: a data set of a few images, a tiny model, logs without traces."""

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import defaults
from detectron2.utils import logger as detectron2_logger

from queryinst.build import build_queryinst
from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.data.registration import register_from_args
from queryinst.data.shapes import make_shapes
from queryinst.model_zoo import get_config_file
from queryinst.testing import spread_queries, tiny_cfg

LOGGERS = ("queryinst", "detectron2", "fvcore")


class TinyData(NamedTuple):
    """Six images to train on and four to evaluate on, of three classes."""

    root: Path
    dataset_args: list[list[str]]  # as --dataset gives them


@pytest.fixture(scope="session", autouse=True)
def untouched_allocator():
    """Runs leave the allocator of this process as it is; some tests measure memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("queryinst.speedups.malloc.apply_to_process", lambda cfg: "")
        yield


@pytest.fixture
def without_gpu(monkeypatch):
    """On a machine with a GPU too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_shapes(root, num_train=6, num_val=4, seed=0)
    folder = root / "shapes"
    triples = [
        [f"tiny_{split}", str(folder / "annotations" / f"{split}.json"), str(folder / split)]
        for split in ("train", "val")
    ]
    register_from_args(triples)
    return TinyData(root, triples)


@contextmanager
def own_logging() -> Iterator[None]:
    """Handlers that a run adds are gone afterwards; those of tests before are away meanwhile."""
    found = {name: logging.getLogger(name) for name in LOGGERS}
    before = {name: (x.handlers[:], x.level, x.propagate) for name, x in found.items()}
    detectron2_logger.setup_logger.cache_clear()
    for logger in found.values():
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)  # else a level of before seems to be that of a handler
        logger.propagate = True
    try:
        yield
    finally:
        for name, (handlers, level, propagate) in before.items():
            found[name].handlers[:], found[name].propagate = handlers, propagate
            found[name].setLevel(level)
        detectron2_logger.setup_logger.cache_clear()
        detectron2_logger._cached_log_stream.cache_clear()


@pytest.fixture
def untouched_logging():
    """Handlers that the test adds are gone afterwards."""
    with own_logging():
        yield


@pytest.fixture(scope="session")
def tiny_run(tiny_data):
    """A context that makes arguments of runs in a folder: KEY, VALUE, ... and flags by name.

    Such a run takes two steps, and has no test sets if it is not given any.
    """

    @contextmanager
    def enter(folder: Path) -> Iterator[Callable[..., argparse.Namespace]]:
        config = {
            "_BASE_": get_config_file("quick_schedules/queryinst_R_50_FPN_instant_test.yaml"),
            "DATASETS": {"TRAIN": ("tiny_train",), "TEST": ()},
            "MODEL": {"QUERYINST": {"NUM_QUERIES": 4}, "ROI_MASK_HEAD": {"NUM_CONV": 1}},
            "SOLVER": {"MAX_ITER": 2, "WARMUP_ITERS": 0},
            "SEED": 1,
            "OUTPUT_DIR": str(folder / "output"),
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(config))

        def make(*opts, **flags):
            known = {"config_file": str(path), "resume": False, "eval_only": False}
            return argparse.Namespace(**{**known, **flags}, opts=[str(opt) for opt in opts])

        with own_logging(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(defaults, "collect_env_info", lambda: "not looked at")  # takes a second
            yield make

    return enter


@pytest.fixture
def make_args(tmp_path, tiny_run):
    """`tiny_run` in the test's own folder, with OUTPUT_DIR `output` in it."""
    with tiny_run(tmp_path) as make:
        yield make


@pytest.fixture(scope="session")
def save_tiny_model():
    """A function that saves a tiny model whose queries differ; returns the checkpoint's path."""

    def save(folder: Path, cfg: CfgNode | None = None, **meta) -> Path:
        torch.manual_seed(0)
        cfg = cfg or tiny_cfg()
        model = build_queryinst(cfg).eval()
        spread_queries(model)
        content = build_meta(cfg, None) | meta
        QueryInstCheckpointer(model, str(folder), meta=content).save("model_final")
        return folder / "model_final.pth"

    return save
