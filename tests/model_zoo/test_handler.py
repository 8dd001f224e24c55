"""queryinst://: published files become checkpoints that Detectron2's own classes take."""

import hashlib
import importlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.utils.file_io import PathManager

import queryinst
from queryinst import model_zoo
from queryinst.checkpoint import QueryInstCheckpointer, read_meta
from queryinst.engine.predictor import Predictor
from queryinst.model_zoo import handler

TINY = "quick_schedules/queryinst_R_50_FPN_instant_test.yaml"


def stable(entry):
    return f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth"


def states_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_handler_lets_detectron2s_own_checkpointer_fill_a_model(
    zoo, server, make_model, make_published, caplog
):
    source, body = make_model(seed=1), make_published(seed=1)
    entry = zoo.publish(body)
    model = make_model(seed=2)
    rest = DetectionCheckpointer(model).load(stable(entry))
    assert states_equal(model.state_dict(), source.state_dict())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert rest["meta"] == read_meta(stable(entry))
    assert {key: rest["meta"][key] for key in ("source", "digest", "kind", "format_version")} == {
        "source": entry["url"],
        "digest": hashlib.sha256(body).hexdigest(),
        "kind": "train",
        "format_version": 1,
    }
    for key in ("licence", "attribution", "training_data"):
        assert rest["meta"][key] == entry[key]
    assert rest["meta"]["thing_classes"] == ["ellipse", "triangle", "star"]
    assert f"WEIGHTS: {stable(entry)}" in rest["meta"]["config"]
    assert server.requests == [entry["url"].removeprefix(f"{server.url}/")]


def test_converted_file_needs_neither_network_nor_the_published_file_again(
    zoo, server, make_published, monkeypatch
):
    entry = zoo.publish(make_published(seed=1))
    path = Path(PathManager.get_local_path(stable(entry)))
    assert zoo.cache in path.parents and entry["sha256_prefix"] in str(path)
    assert zoo.files() == sorted([path.name, entry["url"].rpartition("/")[2]])
    server.files.clear()
    next(zoo.cache.rglob("tiny_*.pth")).unlink()
    assert PathManager.get_local_path(stable(entry)) == str(path)
    with PathManager.open(stable(entry), "rb") as file:
        assert file.read() == path.read_bytes()
    assert len(server.requests) == 1
    # Another version of the converter writes anew, to another path.
    monkeypatch.setattr(handler, "CONVERTER_VERSION", 999)
    with pytest.raises(ConnectionError, match="HTTP 404"):
        PathManager.get_local_path(stable(entry))
    assert len(server.requests) == 2


def test_handler_knows_aliases_and_forced_downloads(zoo, server, make_published):
    entry = zoo.publish(make_published(seed=1))
    path = PathManager.get_local_path(stable(entry))
    alias = f"queryinst://{TINY}"
    assert PathManager.get_local_path(alias) == path
    assert PathManager.get_local_path(alias.removesuffix(".yaml")) == path
    assert len(server.requests) == 1
    Path(path).write_bytes(b"damaged")
    assert PathManager.get_local_path(alias, force=True) == path
    assert len(server.requests) == 2
    assert torch.load(path)["meta"]["source"] == entry["url"]


def test_handler_serves_detectron2s_predictor_and_ours(zoo, make_model, make_published):
    source = make_model(seed=1)
    entry = zoo.publish(make_published(seed=1))
    cfg = model_zoo.get_config(TINY, trained=True)
    cfg.INPUT.FORMAT = "BGR"  # Detectron2's own resizing then sees what ours sees
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    theirs = DefaultPredictor(cfg)
    ours = Predictor.from_checkpoint(stable(entry), ["INPUT.FORMAT", "BGR"])
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype("float32"))
    with torch.no_grad():
        expected = source([{"image": pixels, "height": 64, "width": 64}])[0]["instances"]
    for predictor in (theirs, ours):
        predicted = predictor(image)["instances"]
        assert len(predicted) == len(expected) > 0
        assert torch.equal(predicted.scores, expected.scores)
        assert torch.equal(predicted.pred_masks, expected.pred_masks)
    assert ours.metadata.thing_classes == ["ellipse", "triangle", "star"]


def test_find_entry_refuses_unknown_names_with_a_list_of_what_there_is(zoo, server):
    entry = zoo.publish(b"never fetched")
    wrong = stable(entry).replace(entry["sha256_prefix"], "00000000")
    for path in (wrong, "queryinst://mmdet/tiny", "queryinst://COCO/nothing"):
        with pytest.raises(FileNotFoundError) as caught:
            PathManager.get_local_path(path)
        assert str(caught.value).startswith(f"{path} is no model of {zoo.yaml_path}")
        assert f"{stable(entry)} (queryinst://{TINY[:-5]})" in str(caught.value)
    zoo.publish(b"", url=None, sha256_prefix=None)
    with pytest.raises(FileNotFoundError, match="no stable address; get it from MMDetection"):
        PathManager.get_local_path(f"queryinst://{TINY}")
    assert server.requests == []


def test_converted_file_of_threads_at_once_is_downloaded_once(
    zoo, server, make_published, wait_until
):
    entry = zoo.publish(make_published(seed=1))
    server.stalled |= set(server.files)
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(PathManager.get_local_path(stable(entry))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.requests)
    server.go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(paths) == 3 and len(set(paths)) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "override, facts",
    [
        ({"MODEL__QUERYINST__NUM_QUERIES": 5}, "MODEL.QUERYINST.NUM_QUERIES is 8, the file has 5"),
        ({"MODEL__QUERYINST__NUM_STAGES": 3}, "MODEL.QUERYINST.NUM_STAGES is 2, the file has 3"),
        ({"MODEL__ROI_HEADS__NUM_CLASSES": 4}, "MODEL.ROI_HEADS.NUM_CLASSES is 3, the file has 4"),
    ],
)
def test_convert_published_refuses_another_model_with_both_numbers_and_the_key(
    zoo, make_model, make_published, override, facts
):
    entry = zoo.publish(make_published(**override))
    for load in (PathManager.get_local_path, QueryInstCheckpointer(make_model()).load):
        with pytest.raises(ValueError) as caught:
            load(stable(entry))
        assert facts in str(caught.value) and "tiny of models.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert zoo.files() == [entry["url"].rpartition("/")[2]]  # nothing was written beside it


def test_convert_published_refuses_files_that_hold_something_else(zoo, make_model, make_published):
    model = make_model()
    foreign = {**model.state_dict(), "roi_head.extra.weight": torch.zeros(1)}
    lacking = {k: v for k, v in model.state_dict().items() if not k.endswith("cls_logits.bias")}
    for state, said in ((foreign, "roi_head.extra.weight"), (lacking, "cls_logits.bias")):
        buffer = io.BytesIO()
        torch.save({"state_dict": state}, buffer)
        entry = zoo.publish(buffer.getvalue())
        with pytest.raises(ValueError, match=said):
            PathManager.get_local_path(stable(entry))
    entry = zoo.publish(b"<html>")
    with pytest.raises(ValueError, match="is not a checkpoint: it starts with b'<html>'"):
        PathManager.get_local_path(stable(entry))


def test_config_of_finds_configurations_beside_models_yaml(zoo, make_model, make_published):
    config = zoo.write_config("own.yaml", QUERYINST={"NUM_QUERIES": 5})
    source = make_model(seed=1, MODEL__QUERYINST__NUM_QUERIES=5)
    body = make_published(seed=1, MODEL__QUERYINST__NUM_QUERIES=5)
    entry = zoo.publish(body, config=config)
    model = make_model(MODEL__QUERYINST__NUM_QUERIES=5)
    DetectionCheckpointer(model).load(f"queryinst://{config}")
    assert states_equal(model.state_dict(), source.state_dict())
    zoo.publish(b"", config="nowhere.yaml")
    with pytest.raises(ValueError, match="entry tiny, config 'nowhere.yaml' must be a name of"):
        PathManager.get_local_path("queryinst://nowhere")
    assert entry["config"] == "own.yaml"


def test_register_handler_again_changes_nothing(zoo, make_published):
    entry = zoo.publish(make_published(seed=1))
    importlib.reload(model_zoo)
    importlib.reload(queryinst)
    assert PathManager.get_local_path(stable(entry)).endswith(".pth")
