"""A file as `queryinst export` writes it, whose network is simple enough to foretell."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.onnx_pb import TensorProto

from queryinst_runtime.description import METADATA_KEY, Description

ABOUT = Description(
    thing_classes=("cat", "dog"),
    num_classes=2,
    input_format="RGB",
    pixel_mean=(100.0, 110.0, 120.0),
    pixel_std=(50.0, 55.0, 60.0),
    min_size_test=32,
    max_size_test=64,
    resize_with="PIL",
    size_divisibility=32,
    size=None,
    max_detections=3,
    score_threshold=0.0,
    has_masks=True,
    precision="fp32",
    source="cats.pth",
    dataset_id_map={17: 0, 18: 1},
)
# Of the image: its upper left quarter, all of it and a margin, and a box outside.
FRACTIONS = [[0, 0, 0.5, 0.5], [-0.5, -0.5, 1.5, 1.5], [1.1, 0, 1.5, 1]]
SCORES = [0.9, 0.5, 0.4]


def make_proto() -> onnx.ModelProto:
    """Three detections an image, the second's score less the mean of the normalized pixels."""
    constants = {
        "fractions": np.array([FRACTIONS], np.float32),
        "base": np.array([SCORES], np.float32),
        "weights": np.array([[0, -1, 0]], np.float32),
        "class_row": np.array([[1, 0, 1]]),
        "query_row": np.array([[4, 2, 0]]),
        "mask": np.ones((1, 3, 28, 28), np.float32),
        "w_h": np.array([1, 0, 1, 0]),
        "one": np.array([1]),
        "no": np.zeros((1, 1), np.int64),
        "ends": np.array([3, 28, 28]),
        "axes": np.array([1, 2, 3]),
    }
    nodes = [
        helper.make_node("Gather", ["image_sizes", "w_h"], ["whwh"], axis=1),
        helper.make_node("Cast", ["whwh"], ["whwh_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["whwh_float", "one"], ["whwh_row"]),
        helper.make_node("Mul", ["whwh_row", "fractions"], ["boxes"]),
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["mean_row"]),
        helper.make_node("Mul", ["mean_row", "weights"], ["shift"]),
        helper.make_node("Add", ["base", "shift"], ["scores"]),
        helper.make_node("Shape", ["scores"], ["shape"]),
        helper.make_node("Expand", ["class_row", "shape"], ["classes"]),
        helper.make_node("Expand", ["query_row", "shape"], ["query_idx"]),
        helper.make_node("Shape", ["scores"], ["num"], end=1),
        helper.make_node("Concat", ["num", "ends"], ["mask_shape"], axis=0),
        helper.make_node("Expand", ["mask", "mask_shape"], ["masks"]),
    ]
    number, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("images", number, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("image_sizes", whole, ["n", 2]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", number, ["n", 3, 4]),
        helper.make_tensor_value_info("scores", number, ["n", 3]),
        helper.make_tensor_value_info("classes", whole, ["n", 3]),
        helper.make_tensor_value_info("query_idx", whole, ["n", 3]),
        helper.make_tensor_value_info("masks", number, ["n", 3, 28, 28]),
    ]
    initializers = [numpy_helper.from_array(x, name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "simple", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture
def make_file(tmp_path):
    """A function of changes to the description; gives a path."""

    def make(**changes):
        proto = make_proto()
        about = dataclasses.replace(ABOUT, **changes)
        proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        return path

    return make


@pytest.fixture
def about() -> Description:
    return ABOUT
