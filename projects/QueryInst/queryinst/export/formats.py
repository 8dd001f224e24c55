"""The formats of exported files, and where each carries its description."""

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from queryinst_runtime.description import METADATA_KEY, Description
from queryinst_runtime.openvino_session import OpenVINOSession, weights_of
from queryinst_runtime.session import INPUTS, OUTPUTS, Session

from ..predict.exported import open_program

OPSET = 20  # ONNX Runtime 1.17 and later
_DIMENSIONS = {"images": ("batch", "", "height", "width"), "image_sizes": ("batch",)}


class Format(NamedTuple):
    """How files of one format are made, written and opened."""

    suffix: str
    packages: tuple[str, ...]  # which writing and opening need
    convert: Callable[[ExportedProgram, Description], Any]  # to what `save` takes
    save: Callable[[Any, Description, str], None]  # to a path of any suffix
    open: Callable[[str], Session]
    files: Callable[[str], list[str]] = lambda path: [path]


def to_onnx(program: ExportedProgram, about: Description) -> Any:
    """The graph as an ``onnx.ModelProto``, without a description.

    Raises:
        ValueError: torch's exporter does not know an operation of the model. One line.
    """
    try:
        with _silence(), warnings.catch_warnings():
            # Of the exporter's own passes, about what torch deprecates and they call.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            onnx_program = torch.onnx.export(
                program,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS if about.has_masks else OUTPUTS[:-1]),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ValueError(f"torch.onnx cannot export the model: {first_line(cause)}") from error
    assert onnx_program is not None
    proto = onnx_program.model_proto
    _tidy(proto)
    return proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without notes on what the optimizer leaves as it is: nodes that it might have folded."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)


def _tidy(proto: Any) -> None:
    """Name the open dimensions, and drop notes on where each node's source lies on this machine."""
    graph = proto.graph
    del graph.value_info[:]  # has the exporter's names of dimensions; who reads infers it anew
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    for value in (*graph.input, *graph.output):
        names = _DIMENSIONS.get(value.name, ("batch",))
        for dim, name in zip(value.type.tensor_type.shape.dim, names):
            if dim.dim_param:
                dim.dim_param = name


def save_onnx(proto: Any, about: Description, path: str) -> None:
    """Write an ``onnx.ModelProto`` with this description, which replaces the one it has."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
    with open(path, "wb") as file:
        file.write(proto.SerializeToString())


def save_program(program: ExportedProgram, about: Description, path: str) -> None:
    """Write what torch.export recorded, the description as an extra file."""
    buffer = io.BytesIO()  # a path would have to end in .pt2
    torch.export.save(program, buffer, extra_files={METADATA_KEY: about.to_json()})
    with open(path, "wb") as file:
        file.write(buffer.getbuffer())


def to_openvino(program: ExportedProgram, about: Description) -> Any:
    """The graph as an ``openvino.Model``, from its form in ONNX."""
    import openvino

    return openvino.Core().read_model(model=to_onnx(program, about).SerializeToString())


def save_openvino(model: Any, about: Description, path: str) -> None:
    """Write an .xml and its .bin, the description in the first."""
    import openvino

    model.set_rt_info(about.to_json(), [METADATA_KEY])
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path) or ".") as folder:
        written = os.path.join(folder, "model.xml")  # OpenVINO writes no other suffix
        openvino.serialize(model, written, weights_of(written))
        os.replace(written, path)
        os.replace(weights_of(written), weights_of(path))


def check_packages(packages: tuple[str, ...]) -> None:
    """Raise ImportError, with one line, if one of these is not installed."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            needed = " ".join(packages)
            raise ImportError(f"this export needs {package}: pip install {needed}") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), to_onnx, save_onnx, Session),
    "torch": Format(".pt2", (), lambda program, about: program, save_program, open_program),
    "openvino": Format(
        ".xml",
        ("onnx", "onnxscript", "openvino"),
        to_openvino,
        save_openvino,
        OpenVINOSession,
        lambda path: [path, weights_of(path)],
    ),
}


def format_of(name: str | None, path: str) -> Format:
    """The format of this name, or by the suffix of the path if that is None.

    Raises:
        ValueError: there is none, or the path has the suffix of another. One line.
        ImportError: a package that it needs is not installed.
    """
    suffix = os.path.splitext(path)[1].lower()
    by_suffix = {each.suffix: key for key, each in FORMATS.items()}
    if name is None:
        name = by_suffix.get(suffix, "onnx")
    if name not in FORMATS:
        raise ValueError(f"format {name!r} must be one of {', '.join(FORMATS)}")
    if suffix != FORMATS[name].suffix:
        raise ValueError(f"a file of format {name} ends in {FORMATS[name].suffix}, {path} does not")
    check_packages(FORMATS[name].packages)
    return FORMATS[name]
