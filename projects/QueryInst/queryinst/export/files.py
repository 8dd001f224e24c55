"""Exported files: their formats, and where each carries its description."""

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram

from queryinst_runtime.description import METADATA_KEY, Description
from queryinst_runtime.session import INPUTS, OUTPUTS

OPSET = 20  # ONNX Runtime 1.17 and later
_DIMENSIONS = {"images": ("batch", None, "height", "width"), "image_sizes": ("batch", None)}


def to_onnx(program: ExportedProgram, about: Description) -> Any:
    """The graph as an ``onnx.ModelProto``, without a description.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript")
    with warnings.catch_warnings():
        # Of the exporter's own passes, which call what torch deprecates.
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(
            program,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS if about.has_masks else OUTPUTS[:-1]),
            opset_version=OPSET,
            verbose=False,
        )
    assert onnx_program is not None
    proto = onnx_program.model_proto
    _tidy(proto)
    return proto


def _tidy(proto: Any) -> None:
    """Name the open dimensions, and drop what tells of the exporting machine: paths of sources."""
    del proto.graph.value_info[:]  # in the exporter's names of dimensions; readers infer it anew
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
        dims = value.type.tensor_type.shape.dim
        names = _DIMENSIONS.get(value.name, ("batch",))
        for dim, name in zip(dims, names):
            if name and dim.WhichOneof("value") != "dim_value":
                dim.dim_param = name


def write_onnx(proto: Any, about: Description, path: str) -> None:
    """Write an ``onnx.ModelProto`` with this description, which replaces the one it has."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
    with open(path, "wb") as file:
        file.write(proto.SerializeToString())


def write_program(program: ExportedProgram, about: Description, path: str) -> None:
    """Write the graph as torch.export does."""
    buffer = io.BytesIO()  # a path would have to end in .pt2
    torch.export.save(program, buffer, extra_files={METADATA_KEY: about.to_json()})
    with open(path, "wb") as file:
        file.write(buffer.getbuffer())


def require(*packages: str) -> None:
    """Raise ImportError, with one line, if one of these packages is not installed."""
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ImportError(
                f"this export needs {package}: pip install {' '.join(packages)}"
            ) from None
