"""Makes the page and the pictures of a finished run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .curves import ap_curves, line_chart, loss_curves
from .objects import MIN_SCORE, Scene, best_threshold, build_scenes
from .page import render
from .pictures import draw_pair, with_header
from .run_files import RunFiles, read_run


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
    path: Path  # of the PNG file


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
    scenes, names = build_scenes(
        run.dataset_name, run.predictions, run.predictions_path, run.max_pixels
    )
    score = best_threshold(scenes) if min_score is None else min_score
    scenes = [scene.above(score) for scene in scenes]
    folder = Path(output_dir, "pictures")
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():  # an earlier report may have had more pictures
        if re.fullmatch(r"\d{3,}-.*\.png", path.name):
            path.unlink()
    # At equal distances, the first and the last among them.
    indices = np.linspace(0, len(scenes) - 1, min(len(scenes), num_images)).round().astype(int)
    pictures = [
        _make_picture(folder, number, scenes[index], names, score, run.max_pixels)
        for number, index in enumerate(indices, start=1)
    ]
    counts = MatchCounts(
        num_matched=sum(scene.num_matched for scene in scenes),
        num_objects=sum(scene.num_objects for scene in scenes),
        num_extra=sum(scene.num_extra for scene in scenes),
        min_score=score,
        is_score_chosen=min_score is None,
    )
    page_path = Path(output_dir, "report.html")
    page_path.write_text(_render(run, counts, pictures, len(scenes)), encoding="utf-8")
    paths = [str(picture.path) for picture in pictures]
    return Report(str(page_path), paths, run.dataset_name, run.results[run.dataset_name], counts)


def _render(
    run: RunFiles, counts: MatchCounts, pictures: Sequence[Picture], num_images: int
) -> str:
    name, max_iter = run.dataset_name, run.config["SOLVER"]["MAX_ITER"]
    results = run.results[name]
    metrics = [metric for task in ("segm", "bbox") for metric in results.get(task, ())]
    return render(
        dataset_name=name,
        num_images=num_images,
        results=results,
        # COCO's evaluation leaves a single class out.
        class_names=list(dict.fromkeys(m[3:] for m in metrics if m.startswith("AP-"))),
        counts=counts,
        score=f"{counts.min_score:g}",
        loss_chart=line_chart(loss_curves(run.metrics, max_iter), log=True),
        ap_chart=line_chart(ap_curves(run.metrics, name, max_iter), y_max=100),
        pictures=pictures,
        config=run.config,
        training_time=run.training_time,
        config_text=run.config_text,
    )


def _make_picture(
    folder: Path,
    number: int,
    scene: Scene,
    names: Mapping[int, str],
    min_score: float,
    max_pixels: int,
) -> Picture:
    pair = draw_pair(scene, names, max_pixels)
    caption = f"{scene.num_matched} of {scene.num_objects} found, {scene.num_extra} more predicted"
    path = folder / f"{number:03d}-{Path(scene.file_name).stem}.png"
    header = f"predictions, score ≥ {min_score:g}\n{caption}"
    Image.fromarray(with_header(pair, "ground truth", header)).save(path)
    return Picture(pair, caption, path)
