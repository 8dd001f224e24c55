"""Makes the page and the pictures of a finished run."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog

from .curves import ap_series, loss_series
from .objects import MIN_SCORE, Scene, best_threshold, build_scenes
from .page import Found, Page, Picture, render
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
    found: Found


def make_report(output_dir: str, num_images: int = 24, min_score: float | None = None) -> Report:
    """Write report.html and pictures/*.png into the folder of a run.

    Args:
        output_dir: OUTPUT_DIR of a training by train_net.py that ended.
        num_images: pictures, of the first data set of results.json.
        min_score: predictions of less are neither drawn nor counted; None for the score at which
            precision and recall balance best.

    Raises:
        FileNotFoundError, ValueError, OSError: one line; what is missing, damaged, not registered
            or cannot be written.
    """
    if num_images < 1:
        raise ValueError(f"--num-images {num_images} must be at least 1")
    if min_score is not None and not MIN_SCORE <= min_score <= 1:
        raise ValueError(f"--confidence-threshold {min_score} must be in [{MIN_SCORE}, 1]")
    run = read_run(output_dir)
    scenes, class_names = _load_scenes(run)
    score = best_threshold(scenes) if min_score is None else min_score
    scenes = [scene.above(score) for scene in scenes]
    _remove_old(output_dir)
    pictures = [
        _make_picture(output_dir, number, scenes[index], class_names, score)
        for number, index in enumerate(choose(len(scenes), num_images), start=1)
    ]
    found = Found(
        num_found=sum(scene.num_found for scene in scenes),
        num_objects=sum(scene.num_objects for scene in scenes),
        num_extra=sum(scene.num_extra for scene in scenes),
        min_score=score,
        is_score_chosen=min_score is None,
    )
    page_path = os.path.join(output_dir, "report.html")
    _write(page_path, render(_build_page(run, found, pictures, len(scenes))))
    paths = [os.path.join(output_dir, picture.png_path) for picture in pictures]
    return Report(page_path, paths, run.dataset_name, run.results[run.dataset_name], found)


def _build_page(run: RunFiles, found: Found, pictures: list[Picture], num_images: int) -> Page:
    name, max_iter = run.dataset_name, run.setting("SOLVER.MAX_ITER")
    return Page(
        title=f"{run.setting('MODEL.META_ARCHITECTURE', 'Model')} on {name}",
        summary=_summarize(run, num_images, found.num_objects),
        dataset_name=name,
        results=run.results[name],
        found=found,
        losses=loss_series(run.metrics, max_iter),
        aps=ap_series(run.metrics, name, max_iter),
        pictures=pictures,
        num_images=num_images,
        settings=describe_run(run),
        config_text=run.config_text,
    )


def _load_scenes(run: RunFiles) -> tuple[list[Scene], list[str]]:
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
    scenes = build_scenes(dataset, run.predictions, to_dataset)
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
    picture = with_header(pair, "ground truth", f"predictions, score ≥ {min_score:g}\n{found}")
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
