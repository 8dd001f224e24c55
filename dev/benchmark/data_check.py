"""Seconds and memory of `queryinst data check` on made-up data as large as COCO's train2017.

    python dev/benchmark/data_check.py [--images 118000] [--annotations 860000] [--folder DIR]

Images are smooth JPEGs of 480x640; a part of them are hard links to the others. Annotations are
polygons of some 20 points, RLE, and crowds. Each figure is of a process of its own: the peak is the
memory of it and its workers together, pages that they share counted once.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from queryinst.environment import as_line, describe_hardware, describe_versions

HEIGHT, WIDTH, NUM_CLASSES = 480, 640, 80
NUM_SHAPES = 20_000  # of which annotations are made in turn
NUM_OWN = 20_000  # image files that are no links
RLE_EVERY, CROWD_EVERY = 50, 90  # annotations
RUNS = {
    "headers": ["--fast", "--workers", "1"],
    "headers, two processes": ["--fast", "--workers", "2"],
    "pixels": ["--workers", "1"],
    "pixels, two processes": ["--workers", "2"],
    "pixels and a page": ["--html", "check.html"],  # in as many processes as there are cores
}


def make_images(folder: Path, num: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(num):
        path = folder / f"{index:012}.jpg"
        if index >= NUM_OWN:
            path.hardlink_to(folder / f"{index % NUM_OWN:012}.jpg")
            continue
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path)


def make_shape(rng: np.random.Generator, index: int) -> dict:
    """The keys of an annotation that tell its object."""
    num_points = int(rng.lognormal(3.0, 0.5)) + 4
    radius = np.exp(rng.uniform(np.log(6), np.log(150)))
    center = rng.uniform(radius, (WIDTH - radius, HEIGHT - radius))
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    radii = radius * rng.uniform(0.7, 1, num_points)
    corners = center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    polygon = corners.round(2).ravel().tolist()
    rle = mask_util.merge(mask_util.frPyObjects([polygon], HEIGHT, WIDTH))
    shape = {
        "category_id": int(rng.integers(NUM_CLASSES)) + 1,
        "iscrowd": int(index % CROWD_EVERY == 0),
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
    }
    if index % RLE_EVERY and not shape["iscrowd"]:
        low, high = corners.round(2).min(axis=0), corners.round(2).max(axis=0)
        return {**shape, "bbox": [*low, *(high - low).round(2)], "segmentation": [polygon]}
    return {**shape, "segmentation": {**rle, "counts": rle["counts"].decode()}}


def json_parts(num_images: int, num_annotations: int) -> Iterator[str]:
    """The text of the annotation file."""
    rng = np.random.default_rng(1)
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
    yield f'{{"categories": {json.dumps(categories)}, "images": ['
    for index in range(num_images):
        name = f"{index:012}.jpg"
        image = {"id": index, "file_name": name, "height": HEIGHT, "width": WIDTH}
        yield f"{',' if index else ''}{json.dumps(image)}"
    yield '], "annotations": ['
    shapes = [json.dumps(make_shape(rng, index))[1:] for index in range(NUM_SHAPES)]
    # As many in an image as chance has it, like COCO's: few in most, dozens in some.
    weights = rng.exponential(size=num_images)
    images = np.sort(rng.choice(num_images, num_annotations, p=weights / weights.sum()))
    for index, image in enumerate(images.tolist()):
        head = f'{{"id": {index + 1}, "image_id": {image}, '
        yield f"{',' if index else ''}{head}{shapes[index % NUM_SHAPES]}"
    yield "]}"


def make_data(folder: Path, num_images: int, num_annotations: int) -> None:
    make_images(folder / "train", num_images)
    (folder / "annotations").mkdir()
    with open(folder / "annotations" / "train.json", "w", encoding="utf-8") as file:
        for part in json_parts(num_images, num_annotations):
            file.write(part)


def measure(command: list[str], cwd: str) -> tuple[float, float, float, str]:
    """Seconds, those of CPU cores, peak GB and the last line of a command in a folder."""
    start, before, peak = time.perf_counter(), _cpu_seconds(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_memory, _family(process.pid))))
            time.sleep(0.5)
        assert process.stdout
        output = process.stdout.read()
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - before
    return seconds, cpu_seconds, peak / 1e6, output.strip().rpartition("\n")[2]


def _cpu_seconds() -> float:
    """Of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> Iterator[int]:
    """A process and those that it started."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return
    for child in children:
        yield from _family(int(child))


def _memory(pid: int) -> int:
    """kB of its own, and its share of what it has with others."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--folder", help="that has the data, or gets them (default: a new one)")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary, "made").absolute()
        if not folder.exists():
            make_data(folder, args.images, args.annotations)
        size = os.path.getsize(folder / "annotations" / "train.json") / 1e6
        print(f"{args.images:,} images, {args.annotations:,} annotations, {size:.0f} MB of JSON")
        print(f"{as_line(describe_hardware('cpu'))}; {as_line(describe_versions())}")
        for name in args.runs:
            command = [sys.executable, "-m", "queryinst", "data", "check", str(folder), *RUNS[name]]
            seconds, cpu_seconds, peak, verdict = measure(command, temporary)
            spent = f"{seconds:.0f} s, {cpu_seconds:.0f} s of CPU cores, {peak:.2f} GB"
            print(f"{name}: {spent}; {verdict}", flush=True)


if __name__ == "__main__":
    main()
