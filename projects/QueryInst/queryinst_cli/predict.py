"""`queryinst predict`."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

import queryinst
from queryinst.data.video_writing import VIDEO_SUFFIXES
from queryinst.predict import Model
from queryinst.predict.coco_files import CocoWriter
from queryinst.predict.inputs import (
    IMAGE_SUFFIXES,
    Frame,
    Source,
    check_exists,
    count_frames,
    find_sources,
)
from queryinst.predict.loading import find_weights
from queryinst.predict.naming import check_output, check_targets, make_folder, unique_stems
from queryinst.predict.streams import BestScore, frames_of, predict_frames, tracked
from queryinst.predict.writers import Item, Writer, make_writers
from queryinst.wording import counted
from queryinst_runtime import Result

_THRESHOLD, _DEFAULT_SCORE = "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5
_OF_FILES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".json", ".jsonl", ".csv")


def run(args: argparse.Namespace) -> int:
    """Predict on all inputs, and write what is asked for.

    Returns:
        The exit status; 1 if an input was left out.

    Raises:
        ValueError, OSError, KeyError, ImportError: one line; nothing was predicted, or something
            could not be written.
    """
    log_downloads()
    sources = find_sources(args.inputs)
    _require_any(sources)
    if args.track and not any(source.is_video for source in sources):
        print("queryinst predict: --track does nothing: no input is a video", file=sys.stderr)
    stems = unique_stems(sources)
    weights = find_weights(args.model)
    kinds = list(dict.fromkeys(args.save or ["picture"]))
    check_output(args.output, _OF_FILES)
    writers = make_writers(kinds, Path(args.output), sources)
    targets = [target for writer in writers for target in writer.targets(stems)]
    earlier = check_targets(targets, sources, overwrite=args.overwrite)
    make_folder(Path(args.output))
    model = queryinst.load(weights, device=args.device, opts=args.opts)
    model.predict([], **options_of(args))  # which refuses what the model cannot do
    for path in earlier:
        path.unlink()
    args.score = _score_of(args, model)
    job = _Job(args, stems)
    job.run(model, writers)
    for writer in writers:
        if isinstance(writer, CocoWriter) and writer.ids.origin:
            print(f"image ids are those of {writer.ids.origin}")
    return job.conclude(f"{', '.join(kinds)} in {args.output}")


def _require_any(sources: Sequence[Source]) -> None:
    """Refuse inputs of which none exists, before a model is loaded, or even downloaded."""
    errors = []
    for source in sources:
        try:
            check_exists(source)
        except OSError as error:
            errors.append(error)
    if errors and len(errors) == len(sources):
        others = f"; none of the {len(errors)} inputs exists" if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{others}")


def _score_of(args: argparse.Namespace, model: Model) -> float:
    """--score, else what --opts say, else the default."""
    has_own = _THRESHOLD in args.opts[::2]
    if args.score is None:
        return model.score if has_own else _DEFAULT_SCORE
    if has_own and args.score != model.score:
        print(f"--score {args.score:g} replaces {_THRESHOLD} {model.score:g}", file=sys.stderr)
    return args.score


def log_downloads() -> None:
    """Say on stderr what is downloaded, beside warnings."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("queryinst.model_zoo").setLevel(logging.INFO)
    logging.getLogger("queryinst.data.video_writing").setLevel(logging.INFO)  # what was written


class _Job:
    """The run, and what is said of it."""

    def __init__(self, args: argparse.Namespace, stems: Mapping[Source, str]):
        self.stems = stems
        self.score, self.batch, self.tracks = args.score, args.batch, args.track
        self.options = options_of(args)
        # None: a bar where stderr is a terminal.
        self.hides_bar = True if args.no_progress else None
        self.num_left_out = self.num_images = self.num_objects = 0
        self.best = ""

    def run(self, model: Model, writers: Sequence[Writer]) -> None:
        """Predict and write; what was predicted until an error or an interrupt is kept."""
        best = BestScore(model, **self.options)
        with ExitStack() as stack:
            for writer in writers:
                stack.callback(writer.close)
            bar = stack.enter_context(
                tqdm(total=self._total(), unit="image", disable=self.hides_bar)
            )
            frames = frames_of(self.stems, model.backend.max_pixels, self._leave_out)
            options = {**self.options, "score": self.score, "batch": self.batch}
            predicted = predict_frames(model, frames, self._leave_out, **options)
            for frame, result in tracked(predicted) if self.tracks else predicted:
                self._tell(frame, result, best.look(frame, result))
                for writer in writers:
                    writer.add(Item(frame, self.stems[frame.source], result))
                bar.update()
        self.best = best.text

    def conclude(self, where: str) -> int:
        """Say what was found and left out; the exit status."""
        if self.num_images:
            counts = f"{counted(self.num_images, 'image')}, {counted(self.num_objects, 'object')}"
            print(f"{counts}: {where}")
        if self.best and not self.num_objects:
            print(f"nothing exceeds --score {self.score:g}; the best score is {self.best}")
        if self.num_left_out:
            total = len(self.stems)
            print(
                f"queryinst predict: error: {self.num_left_out} of {counted(total, 'input')} left"
                " out, see above",
                file=sys.stderr,
            )
        return 1 if self.num_left_out else 0

    def _total(self) -> int | None:
        if self.hides_bar or not sys.stderr.isatty():
            return None
        counts = [count_frames(source) for source in self.stems]
        return None if None in counts else sum(count for count in counts if count)

    def _tell(self, frame: Frame, result: Result, best: str) -> None:
        self.num_images += 1
        self.num_objects += len(result)
        if frame.number is None:
            nothing = f"nothing above {self.score:g}" + (f", the best is {best}" if best else "")
            tqdm.write(f"{frame.name}: {describe(result) or nothing}", file=sys.stdout)

    def _leave_out(self, name: str, error: Exception) -> None:
        self.num_left_out += 1
        text = " ".join(str(error).split()) or type(error).__name__
        tqdm.write(f"left out: {text if name in text else f'{name}: {text}'}", file=sys.stderr)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Of `Model.predict`, those that were given."""
    options: dict[str, Any] = {"tta": True} if args.tta else {}
    given = {"slice": args.slice, "overlap": args.overlap}
    return options | {name: value for name, value in given.items() if value is not None}


def describe(result: Result) -> str:
    """How many of which class, such as "2 person, 1 dog"."""
    return ", ".join(f"{count} {name}" for name, count in Counter(result.names).most_common())
