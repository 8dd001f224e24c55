"""Makes the page and the pictures of a finished run."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .curves import ap_series, line_chart, loss_series
from .objects import MIN_SCORE, Scene, best_threshold, build_scenes
from .page import render
from .pictures import choose, draw_pair, save_png, with_header
from .run_files import RunFiles, read_run
from .settings import describe_run

_FOLDER = "pictures"
_PICTURE = re.compile(r"\d{3,}-.*\.png")


class MatchCounts(NamedTuple):
    """How many objects of a data set were found, at IoU 0.5."""

    num_matched: int
    num_objects: int
    num_extra: int  # predictions that match no object
    min_score: float  # of the predictions that count
    is_score_chosen: bool  # by best_threshold, not by the user


class Picture(NamedTuple):
    """One image of the grid."""

    pair: np.ndarray  # (H, W, 3) RGB
    caption: str
    png_path: str  # relative to the page


@dataclass
class Report:
    """What was made, and what it says."""

    page_path: str
    picture_paths: list[str]
    dataset_name: str
    results: Mapping[str, Mapping[str, float | None]]  # task -> metric -> percent
    counts: MatchCounts


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
    scenes, names = build_scenes(run.dataset_name, run.predictions)
    score = best_threshold(scenes) if min_score is None else min_score
    scenes = [scene.above(score) for scene in scenes]
    _remove_old(output_dir)
    pictures = [
        _make_picture(output_dir, number, scenes[index], names, score)
        for number, index in enumerate(choose(len(scenes), num_images), start=1)
    ]
    counts = MatchCounts(
        num_matched=sum(scene.num_matched for scene in scenes),
        num_objects=sum(scene.num_objects for scene in scenes),
        num_extra=sum(scene.num_extra for scene in scenes),
        min_score=score,
        is_score_chosen=min_score is None,
    )
    page_path = os.path.join(output_dir, "report.html")
    _write(page_path, _render(run, counts, pictures, len(scenes)))
    paths = [os.path.join(output_dir, picture.png_path) for picture in pictures]
    return Report(page_path, paths, run.dataset_name, run.results[run.dataset_name], counts)


def _render(
    run: RunFiles, counts: MatchCounts, pictures: Sequence[Picture], num_images: int
) -> str:
    name, max_iter = run.dataset_name, run.setting("SOLVER.MAX_ITER")
    results = run.results[name]
    metrics = [metric for task in ("segm", "bbox") for metric in results.get(task, ())]
    return render(
        title=f"{run.setting('MODEL.META_ARCHITECTURE', 'Model')} on {name}",
        trained_on=", ".join(run.setting("DATASETS.TRAIN", [])) or "unknown data",
        max_iter=max_iter,
        dataset_name=name,
        num_images=num_images,
        results=results,
        # COCO's evaluation leaves a single class out.
        class_names=list(dict.fromkeys(m[3:] for m in metrics if m.startswith("AP-"))),
        counts=counts,
        score=f"{counts.min_score:g}",
        loss_chart=line_chart(loss_series(run.metrics, max_iter), log=True),
        ap_chart=line_chart(ap_series(run.metrics, name, max_iter), y_max=100),
        pictures=pictures,
        settings=describe_run(run),
        config_text=run.config_text,
    )


def _remove_old(output_dir: str) -> None:
    """Remove the pictures of an earlier report, which may have been more."""
    folder = os.path.join(output_dir, _FOLDER)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if _PICTURE.fullmatch(name):
            os.remove(os.path.join(folder, name))


def _make_picture(
    output_dir: str, number: int, scene: Scene, names: Mapping[int, str], min_score: float
) -> Picture:
    pair = draw_pair(scene, names)
    caption = f"{scene.num_matched} of {scene.num_objects} found, {scene.num_extra} more predicted"
    stem = os.path.splitext(os.path.basename(scene.file_name))[0]
    png_path = os.path.join(_FOLDER, f"{number:03d}-{stem}.png")
    picture = with_header(pair, "ground truth", f"predictions, score ≥ {min_score:g}\n{caption}")
    save_png(picture, os.path.join(output_dir, png_path))
    return Picture(pair, caption, png_path)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror})") from error
