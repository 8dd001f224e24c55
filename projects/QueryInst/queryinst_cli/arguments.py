"""The jobs of the command `queryinst`, and their arguments. Standard library alone."""

import argparse
from collections.abc import Sequence

from . import values
from .data_arguments import DATA, DATA_JOB
from .jobs import (
    Job,
    add_device,
    add_nothing,
    add_opts,
    add_output,
    add_overwrite,
    list_jobs,
    parse_job,
)
from .train_arguments import TRAIN_JOB

DEFAULT_MODEL = "R_50_FPN_3x_300q"
LAYOUTS = ("queryinst", "mmdet")  # of queryinst.convert
_MODEL = "a name of the model zoo, or a file: .pth, .safetensors, .onnx, .pt2"


def overview() -> str:
    """What `queryinst` alone prints."""
    return list_jobs(JOBS, "queryinst", "QueryInst: the objects of an image, with masks.")


def parse(job: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a job.

    Raises:
        SystemExit: as `parse_job`.
    """
    return parse_job(JOBS[job], f"queryinst {job}", words)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, videos, folders of them, patterns, http(s) addresses; - for one image on"
        " standard input",
    )
    _add_model(parser, default=DEFAULT_MODEL)
    add_output(parser, "output/predict")
    parser.add_argument(
        "--save",
        nargs="+",
        action="extend",
        choices=values.SAVE_KINDS,
        metavar="KIND",
        help=f"what to write, of {', '.join(values.SAVE_KINDS)} (default: picture)",
    )
    _add_options_of_prediction(parser)
    add_device(parser)
    add_overwrite(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    add_opts(parser)


def _add_options_of_prediction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--score",
        type=values.score,
        metavar="S",
        help="leave out objects that do not exceed it (default: SCORE_THRESH_TEST of --opts, else"
        " 0.5)",
    )
    parser.add_argument(
        "--slice", type=values.count, metavar="N", help="predict on tiles of N pixels as well"
    )
    parser.add_argument(
        "--overlap", type=values.fraction, metavar="R", help="of tiles, as a part of them"
    )
    _add_tta(parser)
    parser.add_argument(
        "--track", action="store_true", help="give the objects of a video identities"
    )
    parser.add_argument(
        "--batch",
        type=values.count,
        default=1,
        metavar="N",
        help="images that the model sees at once (default: %(default)s)",
    )


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=DATA)
    _add_model(parser)
    add_output(parser, "output/eval")
    _add_tta(parser)
    add_device(parser)
    add_opts(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("output", metavar="OUT", help="the file to write")
    parser.add_argument(
        "--format", choices=("onnx", "torch", "openvino"), help="(default: by the name of OUT)"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size", type=values.size, metavar="HxW", help="of all padded batches, such as 800x1216"
    )
    sizes.add_argument(
        "--dynamic", action="store_true", help="any height and width (this is the default)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of the file's numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="compare the file with PyTorch on these images (default: drawn ones)",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="OUTPUT_DIR of a finished training")
    add_report_options(parser)
    parser.add_argument(
        "--dataset",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "JSON", "IMAGE_ROOT"),
        help="the data set that the run registered with this option",
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Those that tools/make_report.py has as well."""
    parser.add_argument(
        "--num-images", type=int, default=24, help="pictures to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        help="least score of what is drawn and counted (default: where the data set's F1 is best)",
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="path or URL: this project's, MMDetection's or the authors' checkpoint, or a ResNet",
    )
    parser.add_argument("target", metavar="DST", help="file to write: .pth or .safetensors")
    add_convert_options(parser)


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """Those that tools/convert_checkpoint.py has as well."""
    parser.add_argument(
        "--inference-only",
        action="store_true",
        help="leave out the mask heads that only training runs: for evaluation and prediction",
    )
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        default=LAYOUTS[0],
        help="whose names the written file has (default: %(default)s)",
    )
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="the model's configuration, which the weights must match (default: the one in the"
        " file, or that of the published model that it is)",
    )
    parser.add_argument(
        "--ema",
        action="store_true",
        help="of a file of MMDetection with two sets of weights, as EMAHook leaves them, take the"
        " second: the keys 'ema_...', or 'ema_state_dict'; of a training with SOLVER.EMA the"
        " averages, which are taken without it too",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load a file that holds more than tensors, which executes what it holds: only if you"
        " trust its author",
    )


def _add_model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--model",
        default=default,
        required=default is None,
        metavar="NAME|FILE",
        help=f"{_MODEL}{f' (default: {default})' if default else ''}",
    )


def _add_tta(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation: more accurate, slower"
    )


JOBS = {
    "predict": Job(
        "find the objects of images and videos",
        "queryinst predict photo.jpg --save picture coco",
        _add_predict,
    ),
    "export": Job(
        "write a model as ONNX or torch.export's file, and check it",
        f"queryinst export {DEFAULT_MODEL} model.onnx",
        _add_export,
    ),
    "eval": Job(
        "measure a model's AP on annotated images",
        "queryinst eval datasets/shapes --model output/demo/model_final.pth",
        _add_eval,
    ),
    "data": DATA_JOB,
    "train": TRAIN_JOB,
    "report": Job(
        "make report.html of a finished training", "queryinst report output/demo", _add_report
    ),
    "convert": Job(
        "convert a checkpoint between layouts and file types",
        "queryinst convert model.pth model.safetensors",
        _add_convert,
    ),
    "env": Job("tell what is installed and whether it can run", "queryinst env", add_nothing),
}
