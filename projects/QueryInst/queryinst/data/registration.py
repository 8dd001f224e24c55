"""Registers data sets of a command line: ``--dataset NAME JSON IMAGE_ROOT``."""

import argparse
import os
from collections.abc import Iterable, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option --dataset; `register_from_args` reads its values in `args.dataset`."""
    parser.add_argument(
        "--dataset",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "JSON", "IMAGE_ROOT"),
        help="register a data set in COCO's format under a name for DATASETS.TRAIN or"
        " DATASETS.TEST; may be given several times",
    )


def register_from_args(triples: Iterable[Sequence[str]]) -> None:
    """Register data sets in COCO's format.

    A second call with the same data sets, as in each process of a training, changes nothing.

    Args:
        triples: (name, JSON file, image folder) each; the classes are the JSON's categories.

    Raises:
        FileNotFoundError: a JSON file or image folder does not exist.
        ValueError: a name is empty, or another data set has it.
    """
    for name, json_file, image_root in triples:
        if not name:
            raise ValueError(f"--dataset '' {json_file} {image_root} needs a name")
        if _is_registered(name, json_file, image_root):
            continue
        if not os.path.isfile(json_file):
            raise FileNotFoundError(f"--dataset {name}: there is no file {json_file}")
        if not os.path.isdir(image_root):
            raise FileNotFoundError(f"--dataset {name}: there is no folder {image_root}")
        register_coco_instances(name, {}, json_file, image_root)


def name_dataset(own: str, json_file: str, image_root: str) -> tuple[str, str, str]:
    """A triple for `register_from_args` whose name no other data set has.

    Args:
        own: the name, if it is free; else a number is added.

    Returns:
        Name, JSON file and image folder; as they are registered, if these files are.
    """
    name, count = own, 1
    while name in DatasetCatalog:
        metadata = MetadataCatalog.get(name)
        known = str(metadata.get("json_file", "")), str(metadata.get("image_root", ""))
        if [*map(os.path.realpath, known)] == [*map(os.path.realpath, (json_file, image_root))]:
            return name, *known
        count += 1
        name = f"{own}_{count}"
    return name, json_file, image_root


def _is_registered(name: str, json_file: str, image_root: str) -> bool:
    """Whether the name is registered for these files; raises if it is for others."""
    if name not in DatasetCatalog:
        return False
    metadata = MetadataCatalog.get(name)
    known = (metadata.get("json_file"), metadata.get("image_root"))
    if known != (json_file, image_root):
        raise ValueError(f"--dataset {name}: another data set has this name; choose another")
    return True
