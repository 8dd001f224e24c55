"""What a run was: the lines of the page's table of settings."""

import os
import platform
from importlib import metadata

import torch

import queryinst

from ..environment import processor_name
from .run_files import RunFiles


def describe_run(run: RunFiles) -> list[tuple[str, str]]:
    """Name and value of each line. Versions and machine are those of this process."""
    get = run.setting
    size = get("INPUT.MIN_SIZE_TRAIN")
    return [
        ("Trained on", ", ".join(get("DATASETS.TRAIN", [])) or "unknown"),
        ("Started from", get("MODEL.WEIGHTS") or "random weights"),
        ("Iterations", f"{get('SOLVER.MAX_ITER'):,} of {get('SOLVER.IMS_PER_BATCH')} images each"),
        ("Training time", run.training_time() or "not in the log"),
        ("Optimizer", f"{get('SOLVER.OPTIMIZER', 'SGD')}, learning rate {get('SOLVER.BASE_LR'):g}"),
        ("Seed", str(get("SEED"))),
        ("Model", _describe_model(run)),
        ("Short side in training", f"{size} pixels"),
        ("Device", str(get("MODEL.DEVICE"))),
        ("Software of this page's machine", _versions()),
        ("This page's machine", _machine()),
    ]


def _describe_model(run: RunFiles) -> str:
    get = run.setting
    parts = [str(get("MODEL.META_ARCHITECTURE"))]
    if "resnet" in str(get("MODEL.BACKBONE.NAME")):
        parts.append(f"ResNet-{get('MODEL.RESNETS.DEPTH')}")
    if get("MODEL.QUERYINST"):
        parts.append(f"{get('MODEL.QUERYINST.NUM_QUERIES')} queries")
        parts.append(f"{get('MODEL.QUERYINST.NUM_STAGES')} stages")
        parts.append(f"width {get('MODEL.QUERYINST.EMBED_DIM')}")
    return ", ".join(parts)


def _versions() -> str:
    try:
        detectron2 = metadata.version("detectron2")
    except metadata.PackageNotFoundError:
        detectron2 = "of unknown version"
    return (
        f"queryinst {queryinst.__version__}, Detectron2 {detectron2}, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )


def _machine() -> str:
    parts = [processor_name(), f"{len(os.sched_getaffinity(0))} cores", platform.system()]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
