"""Makes the page and the pictures of a finished run."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog

from .curves import ap_series, loss_series
from .objects import Scene, build_scenes
from .page import Page, Picture, render
from .pictures import choose, draw_pair, save_png, with_header
from .run_files import RunFiles, read_run
from .settings import describe_run

_FOLDER = "pictures"
_PICTURE = re.compile(r"\d{3,}-.*\.png")


@dataclass
class Report:
    """What was made, and what it says."""

    page_path: str
    picture_paths: list[str]
    dataset_name: str
    results: Mapping[str, Mapping[str, float | None]]  # task -> metric -> percent
    num_found: int  # objects, at IoU 0.5, by predictions of `min_score`
    num_objects: int
    num_extra: int  # predictions that found no object
    min_score: float


def make_report(output_dir: str, num_images: int = 24, min_score: float = 0.5) -> Report:
    """Write report.html and pictures/*.png into the folder of a run.

    Args:
        output_dir: OUTPUT_DIR of a training by train_net.py that ended.
        num_images: pictures, of the first data set of results.json.
        min_score: predictions of less are not drawn.

    Raises:
        FileNotFoundError, ValueError, OSError: one line; what is missing, damaged, not registered
            or cannot be written.
    """
    if num_images < 1:
        raise ValueError(f"--num-images {num_images} must be at least 1")
    if not 0 <= min_score <= 1:
        raise ValueError(f"--confidence-threshold {min_score} must be in [0, 1]")
    run = read_run(output_dir)
    scenes, class_names = _load_scenes(run, min_score)
    _remove_old(output_dir)
    pictures = [
        _make_picture(output_dir, number, scenes[index], class_names, min_score)
        for number, index in enumerate(choose(len(scenes), num_images), start=1)
    ]
    num_found = sum(scene.num_found for scene in scenes)
    num_objects = sum(scene.num_objects for scene in scenes)
    num_extra = sum(scene.num_extra for scene in scenes)
    name = run.dataset_name
    page = Page(
        title=f"{run.setting('MODEL.META_ARCHITECTURE', 'Model')} on {name}",
        summary=_summarize(run, len(scenes), num_objects),
        dataset_name=name,
        results=run.results[name],
        num_found=num_found,
        num_objects=num_objects,
        num_extra=num_extra,
        losses=loss_series(run.metrics),
        aps=ap_series(run.metrics, name),
        pictures=pictures,
        num_images=len(scenes),
        min_score=min_score,
        settings=describe_run(run),
        config_text=run.config_text,
    )
    page_path = os.path.join(output_dir, "report.html")
    _write(page_path, render(page))
    paths = [os.path.join(output_dir, picture.png_path) for picture in pictures]
    counts = (num_found, num_objects, num_extra)
    return Report(page_path, paths, name, run.results[name], *counts, min_score)


def _load_scenes(run: RunFiles, min_score: float) -> tuple[list[Scene], list[str]]:
    name = run.dataset_name
    if name not in DatasetCatalog:
        raise ValueError(
            f"the data set {name!r} of {run.output_dir}/results.json is not registered; add"
            f" --dataset {name} JSON IMAGE_ROOT"
        )
    try:
        dataset = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data set {name!r}: {error.filename} is missing") from error
    metadata = MetadataCatalog.get(name)
    to_dataset = metadata.get("thing_dataset_id_to_contiguous_id", None) or {}
    scenes = build_scenes(dataset, run.predictions, to_dataset, min_score)
    return scenes, list(metadata.get("thing_classes", []))


def _remove_old(output_dir: str) -> None:
    """Pictures of an earlier report, which may have been more."""
    folder = os.path.join(output_dir, _FOLDER)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if _PICTURE.fullmatch(name):
            os.remove(os.path.join(folder, name))


def _make_picture(
    output_dir: str, number: int, scene: Scene, class_names: list[str], min_score: float
) -> Picture:
    pair = draw_pair(scene, class_names)
    found = f"{scene.num_found} of {scene.num_objects} found, {scene.num_extra} more predicted"
    stem = os.path.splitext(os.path.basename(scene.file_name))[0]
    png_path = os.path.join(_FOLDER, f"{number:03d}-{stem}.png")
    picture = with_header(pair, "ground truth", f"predictions, score ≥ {min_score:g}: {found}")
    save_png(picture, os.path.join(output_dir, png_path))
    return Picture(pair, found, png_path)


def _summarize(run: RunFiles, num_images: int, num_objects: int) -> str:
    trained_on = ", ".join(run.setting("DATASETS.TRAIN", [])) or "unknown data"
    images = f"{num_images} held-out image{'' if num_images == 1 else 's'}"
    return (
        f"Trained on {trained_on} for {run.setting('SOLVER.MAX_ITER'):,} iterations; measured on"
        f" {run.dataset_name}, {images} with {num_objects} objects."
    )


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror})") from error
