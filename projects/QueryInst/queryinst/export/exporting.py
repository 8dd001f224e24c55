"""From a model to a file that other programs run, and the proof that it computes the same."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model

from queryinst_runtime.description import Description
from queryinst_runtime.session import Session

from ..checkpoint import read_meta
from ..data.images import read_image
from ..modeling import QueryInst
from ..predict.eager import EagerBackend
from ..predict.exported import TorchSession, is_exported
from ..predict.loading import find_weights, load
from ..predict.naming import make_folder
from .description import describe
from .formats import FORMATS, Format, format_of
from .graph import divisibility, make_core, record
from .proof import (
    TOLERANCES,
    Case,
    Row,
    Tolerance,
    cases_of,
    make_cases,
    prove,
    table_of,
    worst_of,
)
from .quantizing import quantize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What the check of an export found.

    Attributes:
        path: of the file; with ``.unverified`` at its end if a row is outside of the tolerance.
        description: what the file says of itself.
        rows: one for each batch of images.
    """

    path: str
    description: Description
    rows: list[Row]

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES[self.description.precision]

    def table(self) -> str:
        """The rows as a table of text."""
        return table_of(self.rows)


class UnverifiedError(ValueError):
    """The file does not compute what the model computes.

    Attributes:
        report: as `export` returns it.
    """

    def __init__(self, report: Report, problems: Sequence[str]):
        super().__init__(f"the export differs from the model, {problems[0]}; it is {report.path}")
        self.report = report


def export(
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    precision: str = "fp32",
    check: Sequence[str | os.PathLike] = (),
    calibration: Sequence[str | os.PathLike] = (),
    config_file: str = "",
    opts: Sequence[str] = (),
) -> Report:
    """Write a model as a file that other programs run, and check the file.

    The batch is open. The file is replaced if it is there, once the new one has passed the check.

    Args:
        model: a name or a checkpoint, as of `queryinst.load`.
        out: path of the file.
        format: "onnx", "torch" (torch.export) or "openvino"; None by the suffix of `out`.
        size: height, width that all images are resized into and padded to; None leaves both open.
        precision: "fp32", "fp16" or, of ONNX, "int8"; inputs and outputs are float32 in all.
        check: images that the file and eager are compared on; () for drawn ones.
        calibration: images like those to come, some dozens, which "int8" needs.
        config_file, opts: as of `queryinst.load`.

    Raises:
        UnverifiedError: the file is outside of the tolerance; it is left as ``OUT.unverified``.
        ValueError, OSError, KeyError: as `queryinst.load`; an option is invalid; the model cannot
            be exported. One line.
        ImportError: a package that the format needs is not installed.
    """
    out = os.fspath(out)
    target = format_of(format, out)
    _check_precision(precision, target, calibration)
    images = [(Path(path).name, read_image(path, "RGB")) for path in check]
    path = find_weights(model)
    if is_exported(path):
        raise ValueError(f"{path} is an exported file already; name the checkpoint it came from")
    backend = load(path, device="cpu", config_file=config_file, opts=opts).backend
    assert isinstance(backend, EagerBackend)
    _check_out(out)
    logger.info("Recording the graph of %s", path)
    plain = _plain_copy(backend)
    about = _describe(backend, path, divisibility(plain), size, precision)
    artifact = target.convert(record(make_core(plain, precision), about.size), about)
    if precision == "int8":
        artifact = quantize(artifact, about, [read_image(path, "RGB") for path in calibration])
    cases = cases_of(images) if images else make_cases(about)
    eager = TorchSession(backend.model.forward_core, about, path)
    return _save_and_check(artifact, target, about, out, eager, cases)


def _save_and_check(
    artifact: Any, target: Format, about: Description, out: str, eager: Session, cases: list[Case]
) -> Report:
    """Write the file under a name that says it is unverified, compare, and give it its own."""
    unverified = f"{out}.unverified"
    target.save(artifact, about, unverified)
    logger.info("Comparing %s with the model", unverified)
    tolerance = TOLERANCES[about.precision]
    rows = prove(eager, target.open(unverified), cases, tolerance)
    about = replace(about, tolerance=worst_of(rows))
    target.save(artifact, about, unverified)
    if problems := [problem for row in rows for problem in row.problems(tolerance)]:
        raise UnverifiedError(Report(unverified, about, rows), problems)
    for written, name in zip(target.files(unverified), target.files(out)):
        os.replace(written, name)
    return Report(out, about, rows)


def _check_out(out: str) -> None:
    """Make the folder, and see whether the file can be written, before the long work begins.

    Raises:
        OSError: one line that names it.
    """
    if os.path.isdir(out):
        raise IsADirectoryError(f"{out} is a folder; name a file")
    make_folder(os.path.dirname(out), label="")


def _describe(
    backend: EagerBackend, path: str, step: int, size: tuple[int, int] | None, precision: str
) -> Description:
    return describe(
        backend.cfg,
        read_meta(path),
        class_names=backend.class_names,
        size_divisibility=step,
        size=_checked_size(size, step),
        precision=precision,
    )


def _check_precision(
    precision: str, target: Format, calibration: Sequence[str | os.PathLike]
) -> None:
    if precision not in TOLERANCES:
        raise ValueError(f"precision {precision!r} must be one of {', '.join(TOLERANCES)}")
    if precision == "int8" and target is not FORMATS["onnx"]:
        raise ValueError("precision 'int8' is for the format onnx alone")
    if (precision == "int8") != bool(calibration):
        raise ValueError("calibration images and precision 'int8' need each other; give both")


def _plain_copy(backend: EagerBackend) -> QueryInst:
    """The model without speed-ups, which replace operations by some that no export knows."""
    cfg = backend.cfg.clone()
    cfg.defrost()
    cfg.MODEL.QUERYINST.SPEEDUPS = ()
    model = build_model(cfg)
    model.load_state_dict(backend.model.state_dict())
    return model.eval()


def _checked_size(size: tuple[int, int] | None, step: int) -> tuple[int, int] | None:
    """The size as two ints.

    Raises:
        ValueError: a side is no multiple of `step`.
    """
    if size is None:
        return None
    height, width = (int(side) for side in size)
    for side in (height, width):
        if side < step or side % step:
            nearest = max(-(-side // step), 1) * step
            raise ValueError(
                f"size {height}x{width}: both sides must be multiples of {step}, such as {nearest}"
            )
    return height, width
