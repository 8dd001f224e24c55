"""Saving, loading, resuming; and that Detectron2's own loaders take our files."""

import os

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from torch import distributed, nn

from queryinst import __version__
from queryinst.checkpoint import QueryInstCheckpointer, build_meta, read_meta
from queryinst.testing import tiny_cfg


class Counter:
    """A checkpointable with numpy scalars in its state, as schedulers and metrics have them."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": np.int64(self.value), "rates": [np.float64(0.5), {"deep": np.bool_(True)}]}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.fixture
def dataset():
    name = "checkpoint_test_things"
    MetadataCatalog.get(name).set(
        thing_classes=["ant", "bee", "cat"], thing_dataset_id_to_contiguous_id={7: 0, 9: 1, 11: 2}
    )
    yield name
    MetadataCatalog.pop(name)


def assert_equal_models(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_save_writes_what_load_reads(make_model, tmp_path):
    model, other = make_model(1), make_model(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.25)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saver = QueryInstCheckpointer(model, str(tmp_path), optimizer=optimizer, counter=Counter(3))
    saver.save("model_0000004", iteration=4)

    theirs, counter = torch.optim.AdamW(other.parameters(), lr=0.5), Counter()
    loader = QueryInstCheckpointer(other, str(tmp_path), optimizer=theirs, counter=counter)
    rest = loader.resume_or_load("unused.pth", resume=True)
    assert_equal_models(model, other)
    assert rest["iteration"] == 4 and counter.value == 3
    assert theirs.param_groups[0]["lr"] == 0.25
    torch.testing.assert_close(theirs.state_dict()["state"], optimizer.state_dict()["state"])


def test_save_writes_numpy_scalars_as_plain_numbers(make_model, tmp_path):
    saver = QueryInstCheckpointer(make_model(), str(tmp_path), counter=Counter(3))
    saver.save("model", best=np.float32(0.5))
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert saved["counter"] == {"value": 3, "rates": [0.5, {"deep": True}]}
    assert type(saved["counter"]["value"]) is int and type(saved["best"]) is float


def test_build_meta_is_written_and_read(make_model, tmp_path, dataset):
    cfg = tiny_cfg()
    saver = QueryInstCheckpointer(make_model(), str(tmp_path), meta=build_meta(cfg, dataset))
    saver.save("model")
    meta = read_meta(str(tmp_path / "model.pth"))
    assert meta == {
        "format_version": 1,
        "queryinst_version": __version__,
        "config": cfg.dump(),
        "thing_classes": ["ant", "bee", "cat"],
        "dataset_id_map": {7: 0, 9: 1, 11: 2},
        "input_format": "RGB",
        "kind": "train",
    }
    assert QueryInstCheckpointer(make_model()).load(str(tmp_path / "model.pth"))["meta"] == meta


@pytest.mark.parametrize("name", [None, "", "a_data_set_without_metadata"])
def test_build_meta_has_no_names_of_unknown_classes(name):
    meta = build_meta(tiny_cfg(), name)
    assert meta["thing_classes"] == [] and meta["dataset_id_map"] == {}
    assert "a_data_set_without_metadata" not in DatasetCatalog.list()


def test_read_meta_is_none_without_meta(make_model, tmp_path):
    torch.save(make_model().state_dict(), tmp_path / "bare.pth")
    assert read_meta(str(tmp_path / "bare.pth")) is None


def test_require_plain_refuses_other_types(make_model):
    QueryInstCheckpointer(make_model(), meta={"map": {1: [2.5, None]}, "kind": "train"})
    with pytest.raises(TypeError, match=r"meta\['config'\] is a CfgNode; .* plain types"):
        QueryInstCheckpointer(make_model(), meta={"config": tiny_cfg()})


def test_tag_last_checkpoint_follows_each_save(make_model, tmp_path):
    saver = QueryInstCheckpointer(make_model(), str(tmp_path))
    for name in ("model_0000004", "model_0000009"):
        saver.save(name)
        assert saver.get_checkpoint_file() == str(tmp_path / f"{name}.pth")
    with pytest.raises(ValueError, match="'a/b' must not contain folders"):
        saver.save("a/b")


def test_save_writes_only_with_save_to_disk(make_model, tmp_path):
    QueryInstCheckpointer(make_model(), str(tmp_path), save_to_disk=False).save("model")
    QueryInstCheckpointer(make_model(), "").save("model")
    assert not list(tmp_path.iterdir())


def test_save_creates_folders(make_model, tmp_path):
    QueryInstCheckpointer(make_model(), str(tmp_path / "a" / "b")).save("model")
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["last_checkpoint", "model.pth"]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_save_writes_files_that_detectron2_loads(make_model, tmp_path, checkpoint, caplog):
    model, other = make_model(1), make_model(2)
    counter = {"counter": Counter(3)} if checkpoint else {}
    meta = build_meta(tiny_cfg(), None)
    QueryInstCheckpointer(model, str(tmp_path), meta=meta, **counter).save("model", iteration=3)
    caplog.clear()
    rest = DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    assert_equal_models(model, other)
    assert rest["meta"] == meta and rest["iteration"] == 3
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_save_writes_files_that_detectron2s_predictor_loads(make_model, tmp_path):
    model = make_model(1)
    QueryInstCheckpointer(model, str(tmp_path)).save("model")
    predictor = DefaultPredictor(tiny_cfg(MODEL__WEIGHTS=str(tmp_path / "model.pth")))
    assert_equal_models(predictor.model, model)
    assert not predictor.model.training
    assert "instances" in predictor(np.zeros((64, 64, 3), np.uint8))


def test_load_reads_detectron2s_files(make_model, tmp_path):
    model, other = make_model(1), make_model(2).eval()
    DetectionCheckpointer(model, str(tmp_path)).save("model", iteration=3)
    assert QueryInstCheckpointer(other).load(str(tmp_path / "model.pth")) == {"iteration": 3}
    assert_equal_models(model, other)


def test_load_reads_a_bare_state_dict(make_model, tmp_path):
    model, other = make_model(1), make_model(2).eval()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    assert QueryInstCheckpointer(other).load(str(tmp_path / "bare.pth")) == {}
    assert_equal_models(model, other)


def test_load_reads_torchs_legacy_format(make_model, tmp_path):
    model, other = make_model(1), make_model(2).eval()
    torch.save(
        {"model": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=False
    )
    QueryInstCheckpointer(other).load(str(tmp_path / "a.pth"))
    assert_equal_models(model, other)


def test_load_supports_detectron2s_query(make_model, tmp_path):
    model, other = make_model(1), make_model(2).eval()
    QueryInstCheckpointer(model, str(tmp_path)).save("model")
    QueryInstCheckpointer(other).load(f"{tmp_path}/model.pth?matching_heuristics=True")
    assert_equal_models(model, other)
    with pytest.raises(ValueError, match="unsupported query 'version'"):
        QueryInstCheckpointer(other).load(f"{tmp_path}/model.pth?version=2")


def test_load_removes_the_prefix_of_distributed_training(make_model, tmp_path, without_gpu):
    model, other = make_model(1), make_model(2)
    torch.save({f"module.{n}": v for n, v in model.state_dict().items()}, tmp_path / "m.pth")
    QueryInstCheckpointer(nn.DataParallel(other)).load(str(tmp_path / "m.pth"))
    assert_equal_models(model, other)


def test_save_and_load_support_distributed_models(make_model, tmp_path):
    distributed.init_process_group(
        "gloo", store=distributed.HashStore(), rank=0, world_size=1
    )  # one process
    try:
        model, other = make_model(1), make_model(2)
        wrapped = nn.parallel.DistributedDataParallel(model)
        QueryInstCheckpointer(wrapped, str(tmp_path)).save("model")
        wrapped_other = nn.parallel.DistributedDataParallel(other)
        QueryInstCheckpointer(wrapped_other).load(str(tmp_path / "model.pth"))
    finally:
        distributed.destroy_process_group()
    assert_equal_models(model, other)
    saved = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert not any(name.startswith("module.") for name in saved)


def test_resume_or_load_leaves_the_optimizer_alone_without_resume(make_model, tmp_path):
    QueryInstCheckpointer(make_model(1), str(tmp_path), counter=Counter(3)).save("model")
    counter, other = Counter(), make_model(2)
    loader = QueryInstCheckpointer(other, str(tmp_path), counter=counter)
    loader.resume_or_load(str(tmp_path / "model.pth"), resume=False)
    assert counter.value == 0
    assert_equal_models(other, make_model(1))


def test_resume_or_load_logs_once_that_there_is_nothing_to_resume(make_model, tmp_path, messages):
    QueryInstCheckpointer(make_model(1), str(tmp_path / "old")).save("model")
    other, counter = make_model(2), Counter()
    loader = QueryInstCheckpointer(other, str(tmp_path / "new"), counter=counter)
    weights = str(tmp_path / "old" / "model.pth")
    loader.resume_or_load(weights, resume=True)
    assert messages("Nothing") == [
        f"Nothing to resume from in {tmp_path / 'new'}; starting from MODEL.WEIGHTS {weights}"
    ]
    assert_equal_models(other, make_model(1))


def test_load_leaves_a_model_in_training_alone_without_weights(make_model, snapshot, messages):
    model = make_model(1)
    changed = snapshot(model)
    assert QueryInstCheckpointer(model).load("") == {}
    assert not changed() and len(messages("random weights")) == 1


def test_load_copies_half_precision_into_a_float_model(make_model, tmp_path):
    model, other = make_model(1), make_model(2).eval()
    state = {n: v.half() if v.is_floating_point() else v for n, v in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "half.pth")
    QueryInstCheckpointer(other).load(str(tmp_path / "half.pth"))
    assert all(p.dtype == torch.float32 for p in other.parameters())
    name = "cascade.stages.0.ffn_in.weight"
    torch.testing.assert_close(other.state_dict()[name], model.state_dict()[name].half().float())


def test_save_leaves_the_old_file_if_interrupted(make_model, tmp_path, monkeypatch):
    saver = QueryInstCheckpointer(make_model(1), str(tmp_path))
    saver.save("model")
    old = (tmp_path / "model.pth").read_bytes()

    def half_of_it(data, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_of_it)
    with pytest.raises(OSError, match="cannot write .*model.pth .*No space left.* OUTPUT_DIR"):
        saver.save("model")
    assert (tmp_path / "model.pth").read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]


def test_save_leaves_no_checkpoint_if_killed(make_model, tmp_path, monkeypatch):
    saver = QueryInstCheckpointer(make_model(1), str(tmp_path))
    saver.save("model_0000001")

    def killed(data, file):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        saver.save("model_0000002")
    assert saver.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")
    assert saver.get_all_checkpoint_files() == [str(tmp_path / "model_0000001.pth")]
    saver.save("model_0000002")
    assert saver.get_checkpoint_file() == str(tmp_path / "model_0000002.pth")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_save_refuses_a_folder_that_is_a_file(make_model, tmp_path):
    (tmp_path / "file").write_text("")
    saver = QueryInstCheckpointer(make_model(), str(tmp_path / "file" / "output"))
    with pytest.raises(OSError, match="cannot write .*output/model.pth .*OUTPUT_DIR") as error:
        saver.save("model")
    assert "\n" not in str(error.value)
