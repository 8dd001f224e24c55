"""Fields of `meta` with values that cannot be meant, in each kind of file: one line each."""

import pytest
import torch

from queryinst.checkpoint import QueryInstCheckpointer, build_meta, read_meta
from queryinst.checkpoint.files import write_checkpoint
from queryinst.convert import convert_checkpoint
from queryinst.testing import tiny_cfg

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst")
)
WRONG = [
    *(("format_version", value) for value in (None, "1", [1], True, -1, 0, 1.5, 1 << 200, {})),
    *(("config", value) for value in (3, ["MODEL"], None, "a: [", "[1, 2]", "text", BOMB)),
    ("config", "VIS_PERIOD: !!python/object/apply:os.system ['true']"),
    *(
        ("thing_classes", value)
        for value in (5, None, "ant", {"ant": 1}, [1], ["ant", None], [["ant"]])
    ),
    ("thing_classes", ["a" * 2000]),
    *(
        ("dataset_id_map", value)
        for value in (3, None, [[1, 0]], {"1": 0}, {1: "0"}, {1: None}, {1: True}, {1: 1 << 70})
    ),
    *(("input_format", value) for value in (None, 3, "", "CMYK", ["RGB"])),
    *(("kind", value) for value in (None, 1, "", "full", ["train"], {})),
    *(("queryinst_version", value) for value in (None, 1.0, ["1.0"])),
    *((field, value) for field in ("source", "digest", "licence") for value in (None, 5, ["x"])),
]


def write(path, meta):
    tensors = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    write_checkpoint(str(path), {"model": tensors, "meta": meta})
    return str(path)


def refused(path, match):
    model = torch.nn.Linear(2, 2)
    for read in (read_meta, QueryInstCheckpointer(model).load):
        with pytest.raises(ValueError, match=match) as caught:
            read(path)
        text = str(caught.value)
        assert "\n" not in text and path in text and len(text) < 500


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("field, value", WRONG, ids=lambda value: repr(value)[:25])
def test_checked_meta_names_file_and_field(tmp_path, suffix, field, value):
    meta = {**build_meta(tiny_cfg(), None), field: value}
    refused(write(tmp_path / f"w.{suffix}", meta), rf"its meta\['{field}'\]")


@pytest.mark.parametrize("meta", [[], [1], "text", 5, True, (1,)], ids=repr)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_checked_meta_refuses_what_is_not_a_dict(tmp_path, meta, suffix):
    refused(write(tmp_path / f"w.{suffix}", meta), "its meta is .*; it must be a dict")


def test_checked_meta_refuses_too_many_classes(tmp_path):
    meta = {**build_meta(tiny_cfg(), None), "thing_classes": ["ant"] * 200_000}
    path = str(tmp_path / "w.pth")
    torch.save({"model": {"weight": torch.zeros(2, 2)}, "meta": meta}, path)
    with pytest.raises(
        ValueError, match=r"its meta\['thing_classes'\] is a list; .* at most 100000"
    ):
        read_meta(path)


def test_checked_meta_leaves_meta_of_others_alone(make_model, tmp_path):
    model = make_model(1)
    meta = {"CLASSES": 5, "config": 3, "mmdet_version": "2.16.0", "epoch": None}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "w.pth")
    assert read_meta(str(tmp_path / "w.pth")) is None
    QueryInstCheckpointer(make_model(2)).load(str(tmp_path / "w.pth"))


def test_checked_meta_leaves_a_parameter_of_that_name_alone(tmp_path):
    torch.save({"meta": torch.zeros(2), "weight": torch.zeros(2)}, tmp_path / "w.pth")
    assert read_meta(str(tmp_path / "w.pth")) is None


def test_checked_meta_accepts_fields_that_it_does_not_know(tmp_path):
    meta = {**build_meta(tiny_cfg(), None), "sampler": {"seed": 3}, "ema": [0.5]}
    assert read_meta(write(tmp_path / "w.pth", meta)) == meta


@pytest.mark.parametrize(
    "classes", [5, "ant", [1, 2, 3], [["a"], ["b"], ["c"]], {"a": 1}, [None] * 3], ids=repr
)
def test_describe_leaves_out_class_names_that_are_none(make_model, tmp_path, classes):
    meta = {"CLASSES": classes, "digest": [1]}
    torch.save({"meta": meta, "state_dict": make_model(1).state_dict()}, tmp_path / "w.pth")
    done = convert_checkpoint(str(tmp_path / "w.pth"), str(tmp_path / "out.pth"))
    assert done.meta["thing_classes"] == []


@pytest.mark.parametrize("key", [1, None, 2.5, (1, 2), b"weight", "two\nlines", "a" * 600], ids=str)
def test_tensors_of_refuses_keys_that_are_no_names(tmp_path, key):
    path = str(tmp_path / "w.pth")
    torch.save({"model": {"weight": torch.zeros(2, 2), key: torch.zeros(2)}}, path)
    kind = "odd texts" if isinstance(key, str) else type(key).__name__
    with pytest.raises(ValueError, match=f"w.pth .* 1 of its 2 entries have no names.* {kind}"):
        QueryInstCheckpointer(torch.nn.Linear(2, 2)).load(path)


@pytest.mark.parametrize("model", [None, 5, [], [torch.zeros(1)], "text", {}], ids=repr)
def test_tensors_of_refuses_a_model_that_is_no_mapping(tmp_path, model):
    path = str(tmp_path / "w.pth")
    torch.save({"model": model, "iteration": 3}, path)
    with pytest.raises(ValueError, match="w.pth holds no weights, but the keys"):
        QueryInstCheckpointer(torch.nn.Linear(2, 2)).load(path)


@pytest.mark.parametrize(
    "state",
    [
        {"conv1_w": torch.zeros(2), "res2_0_branch2a_w": torch.zeros(2), "res_conv1_bn_s": None},
        {
            "roi_head.mask_head.0.convs.0.conv.bias": None,
            "roi_head.mask_head.0.convs.0.bn.running_mean": None,
        },
    ],
    ids=["Caffe2", "MMDetection"],
)
def test_to_model_names_computes_nothing_with_flags(make_model, tmp_path, state):
    """What is added or subtracted on the way must be numbers."""
    flags = torch.zeros(2, dtype=torch.bool)
    torch.save({n: flags if v is None else v for n, v in state.items()}, tmp_path / "w.pth")
    with pytest.raises((KeyError, ValueError), match="w.pth"):
        QueryInstCheckpointer(make_model(1)).load(str(tmp_path / "w.pth"))
