"""`queryinst eval`."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

import queryinst
from queryinst.checkpoint import read_meta
from queryinst.checkpoint.meta import class_names
from queryinst.data.registration import name_dataset
from queryinst.engine.errors import failing_in_one_line
from queryinst.engine.predictor import cfg_from_checkpoint
from queryinst.engine.train_net import run_with
from queryinst.own_data.sources import choose_held_out, read_data
from queryinst.predict.evaluation import EvaluatedModel, evaluation_cfg
from queryinst.predict.loading import find_weights, is_exported, on_device
from queryinst.recipe.folder import refuse_training
from queryinst_runtime.session import Session


def run(args: argparse.Namespace) -> int:
    """As train_net.py --eval-only, with the data set and the checkpoint alone."""
    refuse_training(args.output)
    weights = find_weights(args.model)
    own_name = Path(os.path.abspath(args.data)).stem
    work_dir = os.path.join(args.output, "inference", own_name)
    splits = read_data(args.data, work_dir, classes=partial(class_names_of, weights))
    _, json_file, image_folder = choose_held_out(splits)
    name, is_new = dataset_of(json_file, image_folder)
    # As train_net.py's; of these, config_file and opts are only logged.
    run_args = argparse.Namespace(
        eval_only=True,
        config_file="",
        opts=args.opts,
        dataset=[(name, json_file, image_folder)] if is_new else [],
    )
    with failing_in_one_line(args.output):
        if is_exported(weights):
            cfg, model = exported(args, weights, name)
            run_with(cfg, run_args, model)
        else:
            run_with(checkpoint_cfg(args, weights, name), run_args)
    return 0


def class_names_of(weights: str) -> Sequence[str]:
    """In the model's order; none of a checkpoint without them, or that is not here."""
    if is_exported(weights):
        return queryinst.load(weights, device="cpu").class_names
    return class_names(read_meta(weights)) if os.path.isfile(weights) else ()


def checkpoint_cfg(args: argparse.Namespace, weights: str, name: str) -> CfgNode:
    """The checkpoint's configuration, to evaluate on a data set."""
    opts = ["DATASETS.TRAIN", "()", "DATASETS.TEST", f"({name!r},)", "OUTPUT_DIR", args.output]
    opts += ["TEST.EXPECTED_RESULTS", "[]"]
    opts += ["TEST.AUG.ENABLED", "True"] if args.tta else []
    return on_device(cfg_from_checkpoint(weights, [*opts, *args.opts]), args.device, args.opts)


def exported(args: argparse.Namespace, path: str, name: str) -> tuple[CfgNode, EvaluatedModel]:
    """An exported model, and the configuration to evaluate it."""
    model = queryinst.load(path, device=args.device, opts=args.opts)
    assert isinstance(model.backend, Session)
    about = model.backend.description
    cfg = evaluation_cfg(
        path,
        name,
        args.output,
        num_classes=about.num_classes,
        has_masks=about.has_masks,
        limit=about.max_detections,
    )
    return cfg, EvaluatedModel(model, **({"tta": True} if args.tta else {}))


def dataset_of(json_file: str, image_folder: str) -> tuple[str, bool]:
    """A name such as "shapes_val", and whether the data set has to be registered under it."""
    path = Path(json_file).absolute()
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    own = f"{folder.name}_{path.stem.removeprefix('instances_')}"
    name, *_ = name_dataset(own, json_file, image_folder)
    return name, name not in DatasetCatalog
