"""Inference-only files: what they lack, which models load them, and what refuses them."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from queryinst.checkpoint import QueryInstCheckpointer, build_meta, read_meta
from queryinst.checkpoint.inference_only import fit_to_weights, is_inference_only, to_inference_only
from queryinst.testing import tiny_cfg

INFERENCE_ONLY = {"MODEL__QUERYINST__INFERENCE_ONLY": True}
DROPPED = "mask_head.stages.0."


def state_without_the_first_head(model):
    return {n: v for n, v in model.state_dict().items() if not n.startswith(DROPPED)}


@pytest.fixture
def source(make_model):
    return make_model(1)


@pytest.fixture
def inference_only_file(source, tmp_path):
    meta = build_meta(tiny_cfg(**INFERENCE_ONLY), None)
    torch.save(
        {"model": to_inference_only(source.state_dict()), "meta": meta}, tmp_path / "small.pth"
    )
    return str(tmp_path / "small.pth")


def assert_holds(model, state):
    ours = model.state_dict()
    assert list(ours) == list(state)
    assert all(torch.equal(value, ours[name]) for name, value in state.items())


def refused(model, path, match, snapshot, **options):
    changed = snapshot(model)
    loader = QueryInstCheckpointer(model, options.get("save_dir", ""))
    with pytest.raises(ValueError, match=match) as error:
        loader.resume_or_load(path, resume="save_dir" in options)
    assert "\n" not in str(error.value) and path in str(error.value)
    assert not changed()


def test_to_inference_only_removes_earlier_mask_heads(source):
    state = source.state_dict()
    small = to_inference_only(state)
    assert small.keys() == state_without_the_first_head(source).keys()
    assert all(value is state[name] for name, value in small.items())
    assert is_inference_only(small) and not is_inference_only(state) and not is_inference_only([])


def test_to_inference_only_keeps_only_the_highest_of_many_heads():
    names = [f"mask_head.stages.{i}.deconv.bias" for i in (10, 2, 9)] + ["cascade.stages.0.x"]
    assert list(to_inference_only(dict.fromkeys(names, 0))) == [
        "mask_head.stages.10.deconv.bias",
        names[-1],
    ]


@pytest.mark.parametrize(
    "overrides, small, match",
    [
        ({"MODEL__MASK_ON": False}, False, "tensors hold no mask heads .* MODEL.MASK_ON True"),
        (
            {"MODEL__QUERYINST__NUM_STAGES": 1},
            False,
            "only one mask head: they are inference-only already",
        ),
        ({}, True, "only one mask head: they are inference-only already"),
    ],
)
def test_to_inference_only_refuses_a_state_with_nothing_to_remove(
    make_model, overrides, small, match
):
    state = make_model(**overrides).state_dict()
    state = to_inference_only(state) if small else state
    with pytest.raises(ValueError, match=match) as error:
        to_inference_only(state)
    assert "\n" not in str(error.value) and f"these {len(state)} tensors" in str(error.value)


@pytest.mark.parametrize("training", [False, True])
def test_load_fills_an_inference_only_model(
    make_model, source, inference_only_file, messages, training
):
    model = make_model(2, **INFERENCE_ONLY)  # in training mode, as every module that is new
    model = model if training else model.eval()
    QueryInstCheckpointer(model).load(inference_only_file)
    assert_holds(model, state_without_the_first_head(source))
    said = f"MODEL.WEIGHTS {inference_only_file} is inference-only: it has only the last mask head"
    assert messages("is inference-only") == [said]


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_load_makes_a_full_model_in_evaluation_inference_only(
    make_model, source, inference_only_file, messages, without_gpu, wrap
):
    model = make_model(2).eval()
    QueryInstCheckpointer(wrap(model)).load(inference_only_file)
    assert_holds(model, state_without_the_first_head(source))
    (line,) = messages("is inference-only")
    assert inference_only_file in line and line.endswith("; the model's others are removed")


def test_load_refuses_an_inference_only_file_in_training(make_model, inference_only_file, snapshot):
    match = "is inference-only: it has only the last mask head, and training needs every"
    refused(make_model(2), inference_only_file, match, snapshot)
    model = make_model(2)
    model.allow_unloaded = ("mask_head",)
    refused(model, inference_only_file, match, snapshot)


def test_resume_or_load_refuses_an_inference_only_file(
    make_model, inference_only_file, snapshot, tmp_path
):
    (tmp_path / "last_checkpoint").write_text("small.pth")
    refused(
        make_model(2),
        inference_only_file,
        "is inference-only: .*training",
        snapshot,
        save_dir=str(tmp_path),
    )
    model = make_model(2).eval()  # --eval-only --resume
    QueryInstCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert is_inference_only(model.state_dict())


def test_load_changes_nothing_if_an_inference_only_file_does_not_fit(
    make_model, inference_only_file, snapshot
):
    model = make_model(2, MODEL__QUERYINST__NUM_STAGES=3).eval()
    refused(model, inference_only_file, "MODEL.QUERYINST.NUM_STAGES is 3, the file has 2", snapshot)
    model = make_model(2, MODEL__ROI_MASK_HEAD__NUM_CONV=2, **INFERENCE_ONLY).eval()
    refused(
        model, inference_only_file, "MODEL.ROI_MASK_HEAD.NUM_CONV is 2, the file has 4", snapshot
    )


@pytest.mark.parametrize("training", [False, True])
def test_load_fills_a_box_detector_from_an_inference_only_file(
    make_model, source, inference_only_file, messages, training
):
    model = make_model(2, MODEL__MASK_ON=False).train(training)
    QueryInstCheckpointer(model).load(inference_only_file)
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(messages("MODEL.MASK_ON is False")) == 1


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_load_fills_an_inference_only_model_from_a_full_file(
    make_model, source, tmp_path, messages, training, resume
):
    QueryInstCheckpointer(source, str(tmp_path)).save("full")
    model = make_model(2, **INFERENCE_ONLY)  # in training mode, as every module that is new
    model = model if training else model.eval()
    loader = QueryInstCheckpointer(model, str(tmp_path))
    loader.resume_or_load(str(tmp_path / "full.pth"), resume=resume)
    assert_holds(model, state_without_the_first_head(source))
    num = sum(name.startswith(DROPPED) for name in source.state_dict())
    (line,) = messages("not loaded")
    assert (
        "full.pth" in line
        and f"MODEL.QUERYINST.INFERENCE_ONLY is True, so {num} keys of mask heads" in line
    )


@pytest.mark.parametrize("training", [False, True])
def test_load_refuses_an_inference_only_file_without_meta(
    make_model, source, snapshot, tmp_path, training
):
    torch.save(to_inference_only(source.state_dict()), tmp_path / "bare.pth")
    match = "MODEL.QUERYINST.INFERENCE_ONLY is False, the file has only the last mask head"
    refused(make_model(2).train(training), str(tmp_path / "bare.pth"), match, snapshot)
    small = make_model(2, **INFERENCE_ONLY)
    QueryInstCheckpointer(small).load(str(tmp_path / "bare.pth"))
    assert_holds(small, state_without_the_first_head(source))


@pytest.mark.parametrize("built_inference_only", [True, False])
def test_save_writes_the_kind_of_an_inference_only_model(
    make_model, tmp_path, built_inference_only
):
    model, cfg = make_model(1), tiny_cfg()
    if built_inference_only:
        model, cfg = make_model(1, **INFERENCE_ONLY), tiny_cfg(**INFERENCE_ONLY)
    model.make_inference_only()
    saver = QueryInstCheckpointer(model, str(tmp_path), meta=build_meta(cfg, None))
    saver.save("small")
    assert read_meta(str(tmp_path / "small.pth"))["kind"] == "slim"
    fresh = make_model(2, **INFERENCE_ONLY)
    QueryInstCheckpointer(fresh).load(str(tmp_path / "small.pth"))
    assert_holds(fresh, model.state_dict())
    rest = DetectionCheckpointer(make_model(2, **INFERENCE_ONLY)).load(str(tmp_path / "small.pth"))
    assert rest["meta"]["kind"] == "slim"


def test_build_meta_takes_the_kind_from_the_configuration():
    kinds = [build_meta(tiny_cfg(**keys), None)["kind"] for keys in ({}, INFERENCE_ONLY)]
    assert kinds == ["train", "slim"]
    assert build_meta(tiny_cfg(MODEL__MASK_ON=False, **INFERENCE_ONLY), None)["kind"] == "train"


def test_fit_to_weights_sets_inference_only(make_model, inference_only_file, source, tmp_path):
    QueryInstCheckpointer(source, str(tmp_path), meta=build_meta(tiny_cfg(), None)).save("full")
    for weights in ("", str(tmp_path / "full.pth")):
        cfg = tiny_cfg(MODEL__WEIGHTS=weights)
        assert fit_to_weights(cfg) is cfg and not cfg.MODEL.QUERYINST.INFERENCE_ONLY
    for weights in (inference_only_file, f"{inference_only_file}?matching_heuristics=True"):
        cfg = tiny_cfg(MODEL__WEIGHTS=weights)
        assert (
            fit_to_weights(cfg).MODEL.QUERYINST.INFERENCE_ONLY
            and not fit_to_weights(cfg).is_frozen()
        )
        cfg.freeze()
        assert fit_to_weights(cfg).is_frozen() and not cfg.MODEL.QUERYINST.INFERENCE_ONLY
        model = build_model(fit_to_weights(cfg)).eval()
        QueryInstCheckpointer(model).load(weights)
        assert_holds(model, state_without_the_first_head(source))
    with pytest.raises(FileNotFoundError, match="none.pth does not exist"):
        fit_to_weights(tiny_cfg(MODEL__WEIGHTS=str(tmp_path / "none.pth")))
