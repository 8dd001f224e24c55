"""Exported files: what they compute and carry, and that a wrong one does not pass."""

import hashlib
import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import queryinst
from queryinst.export import TOLERANCES, UnverifiedError, exporting
from queryinst.export.graph import make_core, record
from queryinst.export.quantizing import quantize
from queryinst.predict.evaluation import EvaluatedModel
from queryinst.predict.exported import open_exported
from queryinst_runtime.description import METADATA_KEY

# Of a batch, one larger and one smaller than recorded, and of one cell of the coarsest level.
SHAPES = [(1, 64, 96), (3, 96, 64), (5, 160, 224), (1, 32, 32), (2, 32, 160)]


def make_batch(num: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num)
    images = rng.normal(size=(num, 3, height, width)).astype(np.float32)
    return images, np.array([[height - i, width - 2 * i] for i in range(num)], np.int64)


def check_equal(session, model, num, height, width, atol=2e-3) -> None:
    """Outputs of the network are those of forward_core: boxes to `atol` px."""
    inputs = make_batch(num, height, width)
    with torch.no_grad():
        expected = [x.numpy() for x in model.forward_core(*map(torch.from_numpy, inputs))]
    actual = session.run(*inputs)
    assert [x.shape for x in actual] == [x.shape for x in expected]
    assert [x.dtype for x in actual] == [x.dtype for x in expected]
    boxes, scores, classes, query_idx, *masks = zip(actual, expected)
    assert (classes[0] == classes[1]).all() and (query_idx[0] == query_idx[1]).all()
    np.testing.assert_allclose(*boxes, atol=atol, rtol=1e-5)
    np.testing.assert_allclose(*scores, atol=1e-5)
    for pair in masks:
        np.testing.assert_allclose(*pair, atol=1e-4)


@pytest.mark.parametrize("num, height, width", SHAPES)
def test_export_to_onnx_computes_every_batch_and_size(onnx_report, eager, num, height, width):
    check_equal(open_exported(onnx_report.path), eager.backend.model, num, height, width)


@pytest.mark.parametrize("num, height, width", SHAPES)
def test_export_to_torch_computes_every_batch_and_size(torch_report, eager, num, height, width):
    session = open_exported(torch_report.path, "cpu")
    check_equal(session, eager.backend.model, num, height, width)


@pytest.mark.parametrize(
    "size, overrides",
    [
        (None, {"MODEL__MASK_ON": False}),
        ((64, 96), {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}),
        # One detection of the three is left: the others lie upon it.
        (None, {"MODEL__ROI_HEADS__NUM_CLASSES": 1, "MODEL__QUERYINST__NMS_THRESH_TEST": 1e-6}),
        (None, {"MODEL__QUERYINST__NUM_QUERIES": 1, "TEST__DETECTIONS_PER_IMAGE": 2}),
    ],
)
def test_record_takes_every_kind_of_model(make_checkpoint, size, overrides):
    overrides = {"MODEL__QUERYINST__NUM_STAGES": 1, **overrides}
    if overrides.get("MODEL__ROI_HEADS__NUM_CLASSES") == 1:
        overrides["MODEL__QUERYINST__NUM_QUERIES"] = 3
    model = queryinst.load(make_checkpoint(**overrides), device="cpu").backend.model
    plain = exporting._plain_copy(queryinst.load(make_checkpoint(**overrides)).backend)
    if overrides.get("MODEL__ROI_HEADS__NUM_CLASSES") == 1:
        for each in (model, plain):
            each.initial_queries.boxes_cxcywh_norm.data[:] = torch.tensor([0.5, 0.5, 0.8, 0.8])
    program = record(make_core(plain), size).module(check_guards=False)
    session = SimpleNamespace(
        run=lambda *x: [y.numpy() for y in program(*map(torch.from_numpy, x))]
    )
    for num in (1, 3):
        with torch.no_grad():
            check_equal(session, model, num, *(size or (96, 64)))


def test_export_names_its_inputs_and_outputs_and_leaves_dimensions_open(onnx_report):
    graph = onnx.load(onnx_report.path).graph
    onnx.checker.check_model(onnx_report.path, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "image_sizes": ["batch", 2],
        "boxes": ["batch", 18, 4],
        "scores": ["batch", 18],
        "classes": ["batch", 18],
        "query_idx": ["batch", 18],
        "masks": ["batch", 18, 28, 28],
    }
    content = Path(onnx_report.path).read_bytes()
    assert b"site-packages" not in content and b"forward_core" not in content


def test_export_writes_what_the_file_needs_into_it(onnx_report, torch_report, checkpoint):
    for report in (onnx_report, torch_report):
        about = open_exported(report.path, "cpu").description
        assert about == report.description
        assert about.digest == hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()
        assert about.thing_classes == ("ellipse", "triangle", "star")
        assert about.category_ids == (10, 20, 30) and about.source == "model.pth"
        assert (about.licence, about.attribution) == ("CC0", "drawn by a test")
        assert (about.min_size_test, about.max_size_test) == (64, 96)
        assert about.size is None and about.size_divisibility == 32
        assert about.tolerance["boxes_px"] == max(row.boxes for row in report.rows) <= 0.1
        assert about.tolerance["same_queries"] == 1
    properties = {p.key: p.value for p in onnx.load(onnx_report.path).metadata_props}
    assert list(properties) == [METADATA_KEY]


def test_export_compares_several_sizes_and_batches_a_blank_and_none_found(onnx_report):
    names = [row.name for row in onnx_report.rows]
    assert names == ["64x85", "85x64", "batch of 3 sizes", "blank", "none above 1"]
    nums = [row.num for row in onnx_report.rows]
    assert all(num > 0 for num in nums[:4]) and nums[4] == 0
    assert "same queries" in onnx_report.table() and "100.0 %" in onnx_report.table()
    assert all(row.eager_ms > 0 and row.file_ms > 0 for row in onnx_report.rows)


def test_load_of_an_exported_file_predicts_as_the_checkpoint(onnx_report, torch_report, eager):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((50, 70), (90, 40), (64, 64))]
    expected = eager(images, score=0.4, batch=3)
    assert 0 < sum(map(len, expected)) < 3 * 18
    for report in (onnx_report, torch_report):
        model = queryinst.load(report.path, device="cpu", score=0.4)
        assert model.class_names == eager.class_names
        for actual, other in zip(model(images, batch=3), expected, strict=True):
            assert actual.image_size == other.image_size and len(actual) == len(other)
            assert actual.names == other.names
            assert actual.category_ids == other.category_ids == (10, 20, 30)
            np.testing.assert_allclose(actual.boxes, other.boxes, atol=0.01)
            assert (actual.masks != other.masks).mean() < 1e-3
        assert len(model(images[0], score=1.0)) == 0 and model([]) == []
    with pytest.raises(ValueError, match="'moon' is no device"):
        queryinst.load(onnx_report.path, device="moon")
    with pytest.raises(ValueError, match="no configuration changes"):
        queryinst.load(onnx_report.path, opts=["TEST.DETECTIONS_PER_IMAGE", "3"])


def test_exported_model_has_the_contract_of_detectron2(onnx_report, eager):
    exported = queryinst.load(onnx_report.path)
    model = EvaluatedModel(exported, score=exported.backend.description.score_threshold)
    about = exported.backend.description
    assert (about.min_size_test, about.num_classes) == (64, 3)
    pixels = np.random.default_rng(2).integers(0, 256, (128, 160, 3), np.uint8)
    resized = eager.backend.predictor.aug.get_transform(pixels).apply_image(pixels)
    image = torch.from_numpy(resized.transpose(2, 0, 1).copy())
    eager.backend.model.score_threshold = about.score_threshold
    with torch.no_grad():
        inputs = {"image": image, "height": 128, "width": 160}
        expected = eager.backend.model([inputs])[0]["instances"]
    whole = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    actual = model([{"image": whole, "height": 128, "width": 160}])[0]["instances"]
    assert actual.image_size == (128, 160) and len(actual) == len(expected) > 0
    torch.testing.assert_close(
        actual.pred_boxes.tensor, expected.pred_boxes.tensor, atol=0.01, rtol=0
    )
    assert torch.equal(actual.pred_classes, expected.pred_classes)
    assert torch.equal(actual.query_idx, expected.query_idx)
    assert (actual.pred_masks != expected.pred_masks).float().mean() < 1e-3
    assert model([]) == []


def test_export_of_a_wrong_graph_fails_and_says_so_in_the_name(
    make_checkpoint, tmp_path, monkeypatch
):
    def make_wrong_core(model, precision):
        core = make_core(model, precision)
        core.model.cascade.stages[-1].box_deltas.bias.data += 0.05  # a few pixels
        return core

    monkeypatch.setattr(exporting, "make_core", make_wrong_core)
    checkpoint = make_checkpoint(MODEL__QUERYINST__NUM_STAGES=1)
    out = tmp_path / "model.pt2"
    out.write_bytes(b"before")
    with pytest.raises(
        UnverifiedError, match=r"boxes .* \(tolerance 0\.\d+\).*unverified"
    ) as error:
        exporting.export(checkpoint, out)
    assert out.read_bytes() == b"before"
    assert error.value.report.path == f"{out}.unverified" and Path(f"{out}.unverified").is_file()
    assert error.value.report.rows[0].boxes > 0.1 and "\n" not in str(error.value)


def test_export_in_half_precision_with_given_images_and_no_warning(
    make_checkpoint, tmp_path, caplog
):
    checkpoint = make_checkpoint(MODEL__QUERYINST__NUM_STAGES=1)
    paths = []
    for index, size in enumerate([(60, 40), (30, 50)]):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        paths.append(tmp_path / f"photo_{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        report = exporting.export(
            checkpoint, tmp_path / "half.onnx", size=(64, 96), precision="fp16", check=paths
        )
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert [row.name for row in report.rows] == [
        *("photo_0.png", "photo_1.png", "batch of 2", "blank"),
    ]
    proto = onnx.load(report.path)
    float16 = onnx.TensorProto.FLOAT16
    weights = [x for x in proto.graph.initializer if len(x.dims) == 4]
    assert len(weights) > 20 and {x.data_type for x in weights} == {float16}
    kinds = {
        x.name: x.type.tensor_type.elem_type for x in (*proto.graph.input, *proto.graph.output)
    }
    assert float16 not in kinds.values()
    session = open_exported(report.path)
    assert session.description.size == (64, 96) and session.description.precision == "fp16"
    result = queryinst.load(report.path)(paths[0])
    assert result.image_size == (60, 40) and len(result) > 0


def test_quantize_puts_convolutions_into_8_bits(onnx_report, eager):
    images = [np.random.default_rng(i).integers(0, 256, (64, 80, 3), np.uint8) for i in range(4)]
    proto = quantize(onnx.load(onnx_report.path), onnx_report.description, images)
    weights = {x.name: x for x in proto.graph.initializer}
    kinds = [x.data_type for x in weights.values() if len(x.dims) == 4]
    assert len(kinds) > 20 and kinds.count(onnx.TensorProto.INT8) > 20
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    inputs = make_batch(3, 64, 96)
    scores = session.run(None, dict(zip(("images", "image_sizes"), inputs)))[1]
    with torch.no_grad():
        expected = eager.backend.model.forward_core(*map(torch.from_numpy, inputs))[1].numpy()
    assert 0 < np.median(np.abs(np.sort(scores) - np.sort(expected))) < 0.05


def test_export_to_openvino_computes_the_same(checkpoint, eager, tmp_path):
    pytest.importorskip("openvino")
    report = exporting.export(checkpoint, tmp_path / "model.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    text = Path(report.path).read_text()
    assert "site-packages" not in text and "forward_core" not in text
    session = open_exported(report.path)
    assert session.description == report.description
    for shape in SHAPES:
        check_equal(session, eager.backend.model, *shape)


@pytest.mark.parametrize("out", ["x.onnx", "x.xml"])
def test_export_names_the_package_that_is_missing(checkpoint, tmp_path, monkeypatch, out):
    for package in ("onnxscript", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match="this export needs onnxscript: pip install onnx"
    ) as error:
        exporting.export(checkpoint, tmp_path / out)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError if out == "x.onnx" else ImportError, match=out):
        open_exported(tmp_path / out)


@pytest.mark.parametrize(
    "out, options, message",
    [
        ("x.onnx", {"format": "tflite"}, "'tflite' must be one of onnx, torch, openvino"),
        ("x.pt2", {"format": "onnx"}, "of format onnx ends in .onnx"),
        ("x.bin", {}, "of format onnx ends in .onnx"),
        ("x.onnx", {"precision": "int4"}, "'int4' must be one of fp32, fp16, int8"),
        ("x.onnx", {"precision": "int8"}, "calibration images and precision 'int8' need each"),
        ("x.onnx", {"calibration": ["x.png"]}, "calibration images and precision 'int8' need each"),
        ("x.pt2", {"precision": "int8", "calibration": ["x.png"]}, "for the format onnx alone"),
        ("x.onnx", {"size": (64, 90)}, "64x90: both sides must be multiples of 32, such as 96"),
        ("x.onnx", {"check": ["missing.png"]}, "missing.png"),
    ],
)
def test_export_says_what_is_wrong_in_one_line(checkpoint, tmp_path, out, options, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        exporting.export(checkpoint, tmp_path / out, **options)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_export_and_load_say_what_a_file_is(onnx_report, tmp_path):
    with pytest.raises(ValueError, match="an exported file already"):
        exporting.export(onnx_report.path, tmp_path / "x.onnx")
    for name in ("x.onnx", "x.pt2"):
        (tmp_path / name).write_bytes(b"no such thing")
        with pytest.raises(ValueError, match=name) as error:
            queryinst.load(tmp_path / name, device="cpu")
        assert "\n" not in str(error.value)
    proto = onnx.load(onnx_report.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="not from queryinst export"):
        queryinst.load(tmp_path / "other.onnx")


def test_tolerances_are_stated_in_the_document():
    text = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text()
    assert len(TOLERANCES) == 3
    for name, tolerance in TOLERANCES.items():
        row = f"| `{name}` | {tolerance.boxes:g} | {tolerance.scores:g} |"
        assert f"{row} {tolerance.mask_iou:g} | {tolerance.same_queries:g} |" in text
    assert [tolerance.share for tolerance in TOLERANCES.values()] == [0.99, 0.99, 0.9]


@pytest.mark.parametrize("name", ["file/x.onnx", "folder.onnx"])
def test_export_sees_before_the_work_that_it_cannot_write(checkpoint, tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    monkeypatch.setattr(exporting, "record", lambda *_: pytest.fail("recorded"))
    with pytest.raises(OSError, match=str(tmp_path / name.removesuffix("/x.onnx"))):
        exporting.export(checkpoint, tmp_path / name)


def test_a_damaged_program_is_one_error_and_no_log(tmp_path, caplog):
    path = tmp_path / "x.pt2"
    path.write_bytes(b"no program")
    with pytest.raises(ValueError, match="torch.export cannot load .*x.pt2"):
        open_exported(path)
    assert not caplog.records
