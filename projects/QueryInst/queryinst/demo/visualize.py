"""demo.py's body: predict on images, a video or a camera, and draw."""

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import cv2
import numpy as np
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from queryinst_runtime.drawing import enlargement

from ..data.images import read_image
from ..data.video_reading import VideoReader
from ..data.video_writing import VideoWriter
from ..engine.predictor import Predictor
from ..engine.setup import setup_cfg
from .files import find_images, plan_outputs
from .video import Camera, plan_video

logger = logging.getLogger(__name__)

_WINDOW = "QueryInst"
_ESCAPE = 27
_THRESHOLD_KEY = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
_DEFAULT_THRESHOLD = 0.5


def build_parser() -> argparse.ArgumentParser:
    """The flags of Detectron2's demo."""
    parser = argparse.ArgumentParser(
        prog="demo.py", description="Draw a model's masks on images, a video, or a camera's frames."
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="may be left out where MODEL.WEIGHTS is a checkpoint of this project",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, folders of images, or glob patterns")
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    source.add_argument("--webcam", action="store_true", help="the first camera, in a window")
    parser.add_argument(
        "--output",
        help="file or folder; without it a window shows the result. Small images are enlarged",
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help=f"least score of what is drawn (default: {_THRESHOLD_KEY} of --opts, else"
        f" {_DEFAULT_THRESHOLD})",
    )
    parser.add_argument(
        "--opts",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY VALUE",
        help="configuration keys; MODEL.WEIGHTS CHECKPOINT among them",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; an error is one line on stderr.

    Returns:
        The exit status: 0; 1 if anything failed, be it one image of many; 2 for wrong arguments.
    """
    args = build_parser().parse_args(argv)
    setup_logger(name="detectron2")
    setup_logger(name="queryinst", abbrev_name="queryinst")
    try:
        return run(args)
    except (ValueError, OSError, KeyError, NotImplementedError, ImportError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"demo.py: error: {' '.join(str(text).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("demo.py: interrupted", file=sys.stderr)
    return 1


def run(args: argparse.Namespace) -> int:
    """Check what is asked for, load the model, draw.

    Raises:
        ValueError, OSError, KeyError: one line; arguments, weights or files that do not fit.
    """
    if args.confidence_threshold is not None and not 0 <= args.confidence_threshold <= 1:
        raise ValueError(f"--confidence-threshold {args.confidence_threshold} must be in [0, 1]")
    if args.webcam and args.output:
        raise ValueError("--webcam shows a window; leave --output out")
    if not args.output:
        _require_window()
    if args.input:
        images = find_images(args.input)
        outputs = plan_outputs(images, args.output) if args.output else None
        return _draw_images(_load(args), images, outputs)
    frames = Camera(0) if args.webcam else VideoReader(args.video_input)
    output = plan_video(args.video_input, args.output) if args.output else None
    _draw_video(_load(args), frames, output)
    return 0


def _require_window() -> None:
    """Raise unless OpenCV can show a window here."""
    build = cv2.getBuildInformation()
    gui = build.partition("GUI:")[2].strip().split("\n")[0].strip()
    if gui.startswith("NONE"):
        raise ValueError("this OpenCV cannot show windows; name a file or folder with --output")
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not has_screen:
        raise ValueError("there is no screen to show a window; name a file or folder with --output")


def _load(args: argparse.Namespace) -> Predictor:
    """The model, by its config file or else by what its checkpoint says."""
    opts = _with_threshold(args.opts, args.confidence_threshold)
    if args.config_file:
        return Predictor(setup_cfg(args.config_file, opts))
    weights = dict(zip(args.opts[::2], args.opts[1::2])).get("MODEL.WEIGHTS")
    if not weights:
        raise ValueError(
            "no model: add --opts MODEL.WEIGHTS CHECKPOINT, and --config-file FILE unless the"
            " checkpoint is one of this project"
        )
    return Predictor.from_checkpoint(weights, opts)


def _with_threshold(opts: list[str], threshold: float | None) -> list[str]:
    """The options with the threshold of the model itself: what is not drawn needs no mask."""
    given = dict(zip(opts[::2], opts[1::2])).get(_THRESHOLD_KEY)
    if given is None:
        return [_THRESHOLD_KEY, str(_DEFAULT_THRESHOLD if threshold is None else threshold), *opts]
    if threshold is None:
        return opts
    logger.warning("--confidence-threshold %s replaces %s %s", threshold, _THRESHOLD_KEY, given)
    return [*opts, _THRESHOLD_KEY, str(threshold)]


def _draw_images(predictor: Predictor, images: list[str], outputs: list[str] | None) -> int:
    """Draw all images, and return 0.

    Raises:
        ValueError: at the end, if some could not be read or predicted.
    """
    num_left_out = 0
    for index, path in enumerate(images):
        try:
            drawn = _draw_image(predictor, path)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            logger.warning("left out: %s", _with_name(path, error))
            num_left_out += 1
            continue
        if outputs is not None:
            _save(drawn, outputs[index])
        elif not _show(drawn[:, :, ::-1], wait=0):
            break
    if num_left_out:
        raise ValueError(
            f"{num_left_out} of {len(images)} images could not be read or predicted, see above"
        )
    return 0


def _draw_image(predictor: Predictor, path: str) -> np.ndarray:
    """The image with its predictions, (H, W, 3) uint8, RGB, enlarged if it is small."""
    image = read_image(path, "BGR", predictor.cfg.INPUT.MAX_PIXELS)
    start = time.perf_counter()
    instances = predictor(image)["instances"].to("cpu")
    seconds = time.perf_counter() - start
    logger.info("%s: %s in %.2f s", path, _describe(predictor, instances), seconds)
    visualizer = Visualizer(image[:, :, ::-1], predictor.metadata, enlargement(*image.shape[:2]))
    return visualizer.draw_instance_predictions(instances).get_image()


def _with_name(path: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if path in text else f"{path}: {text}"


def _draw_video(predictor: Predictor, frames: VideoReader | Camera, output: str | None) -> None:
    visualizer = VideoVisualizer(predictor.metadata)  # keeps an object's colour from frame to frame
    count, start = 0, time.perf_counter()
    # What is written until an error or Ctrl-C can be played.
    with VideoWriter(output, frames.rate) if output else nullcontext() as writer:
        for count, frame in enumerate(frames, start=1):
            bgr = np.ascontiguousarray(frame.pixels[:, :, ::-1])
            instances = predictor(bgr)["instances"].to("cpu")
            drawn = visualizer.draw_instance_predictions(frame.pixels, instances).get_image()
            if writer is not None:
                writer.write(drawn, frame.time)
            elif not _show(drawn[:, :, ::-1], wait=1):
                break
            if count % 100 == 0:
                logger.info("%d of %s frames", count, frames.num_frames or "unknown")
    seconds = time.perf_counter() - start
    logger.info("%d frames in %.1f s%s", count, seconds, f", {output}" if output else "")


def _describe(predictor: Predictor, instances: Instances) -> str:
    """How many of which class, such as "2 circle, 1 star"."""
    names = predictor.metadata.thing_classes
    counts = sorted(Counter(instances.pred_classes.tolist()).items())
    texts = [f"{num} {names[number]}" for number, num in counts]
    return ", ".join(texts) or "nothing above the threshold"


def _save(image_rgb: np.ndarray, path: str) -> None:
    try:
        Image.fromarray(image_rgb).save(path, quality=95)  # of JPEG and WebP
    except (OSError, ValueError) as error:
        raise OSError(f"--output: cannot write {path} ({error})") from error
    logger.info("wrote %s", path)


def _show(image_bgr: np.ndarray, wait: int) -> bool:
    """Show an image for `wait` ms (0: until a key is pressed); False once Esc is."""
    cv2.imshow(_WINDOW, image_bgr)
    return cv2.waitKey(wait) != _ESCAPE
