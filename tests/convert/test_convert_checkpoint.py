"""From any layout and file type to any other, and what the written file says of itself."""

import hashlib
import os
import re

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from safetensors.torch import save_file

from queryinst._version import __version__
from queryinst.checkpoint import build_meta, read_meta
from queryinst.checkpoint.files import read_checkpoint
from queryinst.checkpoint.inference_only import to_inference_only
from queryinst.convert import convert_checkpoint
from queryinst.engine import setup_cfg
from queryinst.testing import tiny_cfg

CLASSES = ("ant", "bee", "cat")
METAS = {
    "2.x": {"mmdet_version": "2.16.0", "CLASSES": CLASSES, "epoch": 12, "config": "model = ..."},
    "3.x": {"mmengine_version": "0.10.7", "dataset_meta": {"classes": CLASSES, "palette": [(1,)]}},
    "bare": None,
}


def save(path, state, meta=None, **rest):
    torch.save({"meta": meta, "state_dict": state, **rest} if meta else state, path)
    return str(path)


def read(path):
    return read_checkpoint(str(path), str(path))


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("version", METAS)
def test_convert_checkpoint_reads_mmdetections_files(
    tmp_path, ours, theirs, config_file, assert_holds, version, suffix
):
    source = save(tmp_path / "in.pth", theirs, METAS[version])
    target = str(tmp_path / "folder" / f"out.{suffix}")
    done = convert_checkpoint(source, target, config_file=config_file)
    checkpoint = read(target)
    assert checkpoint.keys() == {"model", "meta"}
    assert_holds(checkpoint["model"], ours)
    expected = build_meta(setup_cfg(config_file), None) | {
        "thing_classes": list(CLASSES) if version != "bare" else [],
        "source": "in.pth",
        "digest": sha256(source),
        "licence": "",
        "attribution": "",
        "training_data": "",
    }
    assert done.meta == read_meta(target) == checkpoint["meta"] == expected
    assert (done.source_digest, done.target_digest) == (sha256(source), sha256(target))
    assert done.layout == "MMDetection's names" and done.notes == []
    assert done.coverage == f"matches all {len(ours)} keys of the configuration's model"


def test_convert_checkpoint_notes_folded_biases_and_what_it_leaves_out(
    tmp_path, theirs, config_file
):
    bias = "roi_head.mask_head.1.convs.2.conv.bias"
    state = {**theirs, bias: torch.full((16,), 0.25), "backbone.fc.bias": torch.zeros(4)}
    source = save(tmp_path / "in.pth", state, METAS["2.x"], optimizer={"state": {}}, hooks=[])
    done = convert_checkpoint(source, str(tmp_path / "out.pth"), config_file=config_file)
    assert done.notes == [
        f"folded into the running means after them: 1 biases in 1 mask heads, first {bias}",
        "left out: 1 tensors that no model here has: ['backbone.fc.bias']",
        "left out, because these are not weights: optimizer, hooks",
    ]
    mean = read(tmp_path / "out.pth")["model"]["mask_head.stages.1.convs.2.norm.running_mean"]
    assert torch.equal(mean, state[bias.replace("conv.bias", "bn.running_mean")] - 0.25)


@pytest.mark.parametrize("middle, end", [("pth", "safetensors"), ("safetensors", "pth")])
def test_convert_checkpoint_writes_mmdetections_names_and_reads_them_back(
    tmp_path, ours, theirs, config_file, assert_holds, middle, end
):
    torch.save(ours, tmp_path / "in.pth")
    there, back = str(tmp_path / f"mmdet.{middle}"), str(tmp_path / f"back.{end}")
    convert_checkpoint(str(tmp_path / "in.pth"), there, to="mmdet", config_file=config_file)
    checkpoint = read(there)
    assert_holds(checkpoint["state_dict" if middle == "pth" else "model"], theirs)
    assert checkpoint["meta"]["CLASSES"] == []
    done = convert_checkpoint(there, back)
    assert "keys of the configuration's model" in done.coverage  # from the file
    assert_holds(read(back)["model"], ours)
    first = read_meta(back)
    assert first["source"] == "in.pth" and first["digest"] == sha256(tmp_path / "in.pth")


def test_convert_checkpoint_gives_mmdetection_the_class_names(tmp_path, theirs, config_file):
    source = save(tmp_path / "in.pth", theirs, METAS["3.x"])
    convert_checkpoint(source, str(tmp_path / "out.pth"), to="mmdet", config_file=config_file)
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert written.keys() == {"meta", "state_dict"}
    assert written["meta"]["CLASSES"] == list(CLASSES)


def test_convert_checkpoint_keeps_the_meta_of_this_project(tmp_path, ours, assert_holds):
    meta = build_meta(tiny_cfg(SOLVER__MAX_ITER=77), None) | {
        "queryinst_version": "0.0.1",
        "thing_classes": list(CLASSES),
        "dataset_id_map": {7: 0, 9: 1, 11: 2},
        "licence": "a licence",
    }
    checkpoint = {"model": ours, "meta": meta, "optimizer": {"lr": 1.0}, "iteration": 3}
    torch.save(checkpoint, tmp_path / "in.pth")
    target = str(tmp_path / "out.safetensors")
    done = convert_checkpoint(str(tmp_path / "in.pth"), target)
    assert done.notes == ["left out, because these are not weights: optimizer, iteration"]
    assert done.layout == "this project's names"
    assert_holds(read(target)["model"], ours)
    provenance = {"source": "in.pth", "digest": done.source_digest, "licence": "a licence"}
    others = {"attribution": "", "training_data": "", "queryinst_version": __version__}
    assert read_meta(target) == meta | others | provenance
    assert yaml.safe_load(read_meta(target)["config"])["SOLVER"]["MAX_ITER"] == 77


def test_convert_checkpoint_brings_old_keys_up_to_date(tmp_path, ours):
    config = yaml.safe_load(tiny_cfg().dump())
    queryinst = config["MODEL"]["QUERYINST"]
    del queryinst["ACTIVATION_CHECKPOINTING"], queryinst["INFERENCE_ONLY"]
    queryinst |= {"CHECKPOINT_BACKBONE": True, "CHECKPOINT_MASK_HEADS": False, "SLIM": False}
    meta = build_meta(tiny_cfg(), None) | {"config": yaml.safe_dump(config)}
    torch.save({"model": ours, "meta": meta}, tmp_path / "in.pth")
    done = convert_checkpoint(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    assert "keys of the configuration's model" in done.coverage
    expected = tiny_cfg(MODEL__QUERYINST__ACTIVATION_CHECKPOINTING=("backbone",))
    assert yaml.safe_load(done.meta["config"]) == yaml.safe_load(expected.dump())


@pytest.fixture
def dataset():
    name = "convert_test_things"
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=list(CLASSES), thing_dataset_id_to_contiguous_id={7: 0, 9: 1, 11: 2})
    DatasetCatalog.register(name, lambda: [])
    yield name
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


@pytest.mark.parametrize(
    "names, classes, id_map",
    [
        (None, list(CLASSES), {7: 0, 9: 1, 11: 2}),
        (CLASSES, list(CLASSES), {7: 0, 9: 1, 11: 2}),
        (("dog", "elk", "fox"), ["dog", "elk", "fox"], {}),
        (("dog", "elk"), list(CLASSES), {7: 0, 9: 1, 11: 2}),  # of other than 3 classes
    ],
)
def test_describe_takes_class_names_from_file_or_configuration(
    tmp_path, theirs, dataset, names, classes, id_map
):
    config = tmp_path / "things.yaml"
    config.write_text(tiny_cfg(DATASETS__TRAIN=(dataset,)).dump())
    source = save(tmp_path / "in.pth", theirs, {"CLASSES": names} if names else None)
    target = str(tmp_path / "out.safetensors")
    done = convert_checkpoint(source, target, config_file=str(config))
    meta = read_meta(target)
    assert (meta["thing_classes"], meta["dataset_id_map"]) == (classes, id_map)
    expected = (
        ["left out: its 2 class names, because the model has 3 classes"]
        if len(names or "abc") == 2
        else []
    )
    assert done.notes == expected


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("version", ["2.x", "3.x"])
def test_convert_checkpoint_takes_one_of_two_sets_of_weights(
    tmp_path, ours, theirs, config_file, assert_holds, version, ema
):
    second = {name: value + 1 for name, value in theirs.items()}
    state, rest = dict(theirs), {}
    if version == "2.x":
        state |= {f"ema_{name.replace('.', '_')}": value for name, value in second.items()}
    else:
        copy = {f"module.{name}": value for name, value in second.items()}
        rest = {"ema_state_dict": {"steps": torch.tensor(5), **copy}}
    source = save(tmp_path / "in.pth", state, METAS[version], **rest)
    done = convert_checkpoint(source, str(tmp_path / "out.pth"), config_file=config_file, ema=ema)
    expected = {name: value + ema for name, value in ours.items()}
    assert_holds(read(tmp_path / "out.pth")["model"], expected)
    (note,) = done.notes
    assert ("--ema), the plain keys left out" in note) == ema
    assert ("--ema takes these" in note) == (not ema)


def test_convert_checkpoint_refuses_ema_for_one_set_of_weights(tmp_path, theirs):
    source = save(tmp_path / "in.pth", theirs, METAS["2.x"])
    with pytest.raises(ValueError, match="in.pth has one set of weights, .*leave out --ema"):
        convert_checkpoint(source, str(tmp_path / "out.pth"), ema=True)
    assert not (tmp_path / "out.pth").exists()


def test_convert_checkpoint_works_without_a_configuration(tmp_path, ours, theirs, assert_holds):
    source = save(tmp_path / "in.pth", theirs, METAS["2.x"])
    done = convert_checkpoint(source, str(tmp_path / "out.pth"))
    assert_holds(read(tmp_path / "out.pth")["model"], ours)
    assert done.coverage == "not checked against a model, because no configuration is known"
    assert done.notes == ["no configuration is known; name one with --config-file"]
    assert done.meta["config"] == "" and done.meta["thing_classes"] == list(CLASSES)


def test_find_model_knows_a_published_file_by_its_digest(
    tmp_path, theirs, monkeypatch, config_file
):
    source = save(tmp_path / "in.pth", theirs, METAS["2.x"])
    recipe = {"queries": 6, "epochs": 12, "short_side": "64", "crop": False}
    published = {"box_ap": 1.0, "mask_ap": 1.0, "by": "nobody", "source": "nowhere"}
    entry = {
        "name": "tiny",
        "config": os.path.basename(config_file),
        "url": "https://localhost/tiny-01234567.pth",
        "sha256_prefix": sha256(source)[:8],
        "parameters": 1,
        "approximate_size_mb": 1,
        "recipe": recipe,
        "published": published,
        "licence": "a licence",
        "attribution": "its makers",
        "training_data": "their data",
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    monkeypatch.setenv("QUERYINST_MODELS_YAML", str(tmp_path / "models.yaml"))
    done = convert_checkpoint(source, str(tmp_path / "out.pth"))
    keys = ("licence", "attribution", "training_data")
    assert [done.meta[key] for key in keys] == ["a licence", "its makers", "their data"]
    assert done.coverage.startswith("matches all")
    again = convert_checkpoint(str(tmp_path / "out.pth"), str(tmp_path / "again.safetensors"))
    assert [again.meta[key] for key in keys] == ["a licence", "its makers", "their data"]
    assert again.meta["digest"] == done.source_digest != again.source_digest


def test_count_groups_and_list_kinds_describe_the_target(tmp_path, ours, config_file):
    torch.save({"model": ours}, tmp_path / "in.pth")
    done = convert_checkpoint(
        str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), config_file=config_file
    )
    groups = {group.name: group for group in done.groups}
    assert list(groups) == [
        "backbone",
        "FPN",
        "queries",
        *(f"{head} head, stage {stage}" for head in ("box", "mask") for stage in (0, 1)),
        "all",
    ]
    assert groups["queries"].num_tensors == 2 and groups["queries"].num_parameters == 6 * (4 + 16)
    assert groups["queries"].dtypes == ("float32",)
    counts = [group.num_parameters for group in done.groups]
    assert sum(counts[:-1]) == counts[-1]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert counts[-1] == sum(v.numel() for n, v in ours.items() if not n.endswith(statistics))
    kinds = {kind.name: kind for kind in done.kinds}
    convs = kinds["mask_head.stages.*.convs.*.weight"]
    assert (convs.num_tensors, convs.shape, convs.dtype) == (8, (16, 16, 3, 3), "float32")
    assert kinds["cascade.stages.*.ffn_norm.{weight, bias}"].num_tensors == 4
    assert sum(kind.num_tensors for kind in done.kinds) == len(ours)


def test_convert_checkpoint_leaves_out_what_only_training_runs(
    tmp_path, ours, config_file, assert_holds
):
    torch.save({"model": ours}, tmp_path / "in.pth")
    small, again = str(tmp_path / "small.pth"), str(tmp_path / "again.safetensors")
    done = convert_checkpoint(
        str(tmp_path / "in.pth"), small, inference_only=True, config_file=config_file
    )
    assert read_meta(small)["kind"] == "slim"
    assert_holds(read(small)["model"], to_inference_only(ours))
    assert not any(group.name == "mask head, stage 0" for group in done.groups)
    assert os.path.getsize(small) < os.path.getsize(tmp_path / "in.pth")
    convert_checkpoint(small, again)  # checked against a small model
    assert read_meta(again)["kind"] == "slim"
    assert_holds(read(again)["model"], to_inference_only(ours))
    with pytest.raises(ValueError, match="small.pth.* inference-only already"):
        convert_checkpoint(small, str(tmp_path / "b.pth"), inference_only=True)
    with pytest.raises(
        ValueError, match="small.pth is inference-only, and MMDetection's models have all"
    ):
        convert_checkpoint(small, str(tmp_path / "b.pth"), to="mmdet")
    assert not (tmp_path / "b.pth").exists()


def test_convert_checkpoint_renames_a_bare_backbone(tmp_path, ours):
    bottom_up = {n: v for n, v in ours.items() if n.startswith("backbone.bottom_up.")}
    bare = {n.removeprefix("backbone.bottom_up."): v for n, v in bottom_up.items()}
    save_file(bare, tmp_path / "bottom_up.safetensors")
    done = convert_checkpoint(str(tmp_path / "bottom_up.safetensors"), str(tmp_path / "out.pth"))
    assert done.layout == "a backbone's names" and done.groups[0].num_tensors == len(bottom_up)
    assert read(tmp_path / "out.pth")["model"].keys() == bottom_up.keys()


def test_convert_checkpoint_writes_zeros_for_missing_counters(tmp_path, ours, theirs, config_file):
    state = {n: v for n, v in theirs.items() if not n.endswith("num_batches_tracked")}
    source = save(tmp_path / "in.pth", state)
    convert_checkpoint(source, str(tmp_path / "out.pth"), config_file=config_file)
    written = read(tmp_path / "out.pth")["model"]
    assert written.keys() == ours.keys()
    counters = [v for n, v in written.items() if re.search("num_batches_tracked$", n)]
    assert counters and all(int(counter) == 0 for counter in counters)
