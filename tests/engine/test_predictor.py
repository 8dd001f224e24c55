import logging

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.checkpoint.inference_only import is_inference_only, to_inference_only
from queryinst.checkpoint.meta import as_inference_only
from queryinst.checkpoint.mmdet import to_mmdet_state_dict
from queryinst.engine.predictor import Predictor, cfg_from_checkpoint
from queryinst.testing import tiny_cfg

NAMES = ["circle", "square", "star"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_cfg()).eval()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def save(folder, model, meta):
    QueryInstCheckpointer(model, str(folder), meta=meta).save("model_final")
    return str(folder / "model_final.pth")


def meta_of(cfg, **changes):
    return {**build_meta(cfg, None), "thing_classes": NAMES, **changes}


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_predictor_predicts_as_the_model_from_a_checkpoint_alone(
    tmp_path, model, image, input_format
):
    path = save(tmp_path, model, meta_of(tiny_cfg(INPUT__FORMAT=input_format)))
    predictor = Predictor.from_checkpoint(path)
    instances = predictor(image)["instances"]
    # By hand: the short side 48 becomes 64, the channels the order that the model wants.
    pixels = image[:, :, ::-1].copy() if input_format == "RGB" else image
    resized = Image.fromarray(pixels).resize((107, 64), Image.BILINEAR)
    tensor = torch.from_numpy(np.asarray(resized).astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        expected = model([{"image": tensor, "height": 48, "width": 80}])[0]["instances"]
    assert isinstance(predictor, DefaultPredictor) and not predictor.model.training
    assert len(instances) > 0 and instances.pred_masks.shape[1:] == (48, 80)
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(instances.scores, expected.scores)
    assert torch.equal(instances.pred_masks, expected.pred_masks)


def test_cfg_from_checkpoint_takes_no_pattern_that_could_search_for_ever(tmp_path, model):
    meta = meta_of(tiny_cfg(MODEL__QUERYINST__ALLOW_UNLOADED=("(.+)+%",)))
    path = save(tmp_path, model, meta)
    assert cfg_from_checkpoint(path).MODEL.QUERYINST.ALLOW_UNLOADED == ()
    own = cfg_from_checkpoint(path, ["MODEL.QUERYINST.ALLOW_UNLOADED", "('backbone',)"])
    assert own.MODEL.QUERYINST.ALLOW_UNLOADED == ("backbone",)


def test_cfg_from_checkpoint_lets_options_override(tmp_path, model):
    path = save(tmp_path, model, meta_of(tiny_cfg()))
    cfg = cfg_from_checkpoint(path, ["INPUT.MIN_SIZE_TEST", "32"])
    assert cfg.INPUT.MIN_SIZE_TEST == 32
    assert cfg.MODEL.WEIGHTS == path
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 6
    with pytest.raises(KeyError, match="MODEL.NO_SUCH"):
        cfg_from_checkpoint(path, ["MODEL.NO_SUCH", "1"])
    with pytest.raises(ValueError, match="KEY VALUE pairs"):
        cfg_from_checkpoint(path, ["INPUT.MIN_SIZE_TEST"])


def test_predictor_reads_class_names_and_leaves_the_catalog_alone(tmp_path, model):
    cfg = tiny_cfg(DATASETS__TEST=("never_registered",))
    predictor = Predictor.from_checkpoint(save(tmp_path, model, meta_of(cfg)))
    assert predictor.metadata.thing_classes == NAMES
    assert "never_registered" not in MetadataCatalog.list()


def test_predictor_takes_class_names_of_a_registered_data_set(tmp_path, model):
    name = "test_predictor_names"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(thing_classes=["a", "b", "c"])
    try:
        cfg = tiny_cfg(DATASETS__TEST=(name,))
        named = Predictor.from_checkpoint(save(tmp_path, model, meta_of(cfg)))
        assert named.metadata.thing_classes == NAMES  # the checkpoint's own come first
        unnamed = Predictor.from_checkpoint(save(tmp_path, model, meta_of(cfg, thing_classes=[])))
        assert unnamed.metadata.thing_classes == ["a", "b", "c"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("names", [[], ["only one"]])
def test_predictor_numbers_the_classes_without_names_of_their_count(tmp_path, model, names):
    path = save(tmp_path, model, meta_of(tiny_cfg(), thing_classes=names))
    expected = ["class 0", "class 1", "class 2"]
    assert Predictor.from_checkpoint(path).metadata.thing_classes == expected
    assert Predictor(tiny_cfg(MODEL__WEIGHTS=path)).metadata.thing_classes == expected


@pytest.mark.parametrize("meta", [{"CLASSES": tuple(NAMES)}, {"dataset_meta": {"classes": NAMES}}])
def test_predictor_takes_the_class_names_of_mmdetections_files(tmp_path, model, meta):
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": meta, "state_dict": to_mmdet_state_dict(model.state_dict())}, path)
    predictor = Predictor(tiny_cfg(MODEL__WEIGHTS=str(path)))
    assert predictor.metadata.thing_classes == NAMES


def test_cfg_from_checkpoint_refuses_a_file_without_meta(tmp_path, model, image):
    path = save(tmp_path, model, None)
    with pytest.raises(ValueError, match="config file.*checkpoint that this project") as caught:
        Predictor.from_checkpoint(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)
    predictor = Predictor(tiny_cfg(MODEL__WEIGHTS=path))
    assert len(predictor(image)["instances"]) > 0


@pytest.mark.parametrize("with_config_file", [False, True])
def test_predictor_predicts_the_same_from_an_inference_only_checkpoint(
    tmp_path, model, image, with_config_file
):
    full = Predictor.from_checkpoint(save(tmp_path, model, meta_of(tiny_cfg())))
    path = str(tmp_path / "small.pth")
    meta = as_inference_only(
        meta_of(tiny_cfg())
    )  # whose configuration may be that of the full model
    torch.save({"model": to_inference_only(model.state_dict()), "meta": meta}, path)
    if with_config_file:
        small = Predictor(tiny_cfg(MODEL__WEIGHTS=path))
    else:
        small = Predictor.from_checkpoint(path, ["MODEL.QUERYINST.INFERENCE_ONLY", "False"])
    assert is_inference_only(small.model.state_dict()) and small.cfg.MODEL.QUERYINST.INFERENCE_ONLY
    predicted, expected = small(image)["instances"], full(image)["instances"]
    assert len(expected) > 0 and torch.equal(predicted.pred_masks, expected.pred_masks)
    assert torch.equal(predicted.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert small.metadata.thing_classes == NAMES


def test_predictor_reads_a_checkpoint_with_old_keys(tmp_path, model, image):
    config = yaml.safe_load(tiny_cfg().dump())
    queryinst = config["MODEL"]["QUERYINST"]
    del queryinst["ACTIVATION_CHECKPOINTING"], queryinst["INFERENCE_ONLY"]
    queryinst |= {"CHECKPOINT_BOX_HEADS": True, "CHECKPOINT_BACKBONE": False, "SLIM": True}
    full = Predictor.from_checkpoint(save(tmp_path, model, meta_of(tiny_cfg())))
    path = str(tmp_path / "old.pth")
    meta = as_inference_only(meta_of(tiny_cfg(), config=yaml.safe_dump(config)))
    torch.save({"model": to_inference_only(model.state_dict()), "meta": meta}, path)
    old = Predictor.from_checkpoint(path, ["MODEL.QUERYINST.NUM_QUERIES", "6"])
    assert old.cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING == ("box_heads",)
    assert old.cfg.MODEL.QUERYINST.INFERENCE_ONLY is True
    assert torch.equal(old(image)["instances"].scores, full(image)["instances"].scores)


def test_cfg_from_text_leaves_out_keys_of_another_detectron2(tmp_path, model):
    config = yaml.safe_load(tiny_cfg().dump())
    config["DATALOADER"]["FROM_THE_FUTURE"] = True
    path = save(tmp_path, model, meta_of(tiny_cfg(), config=yaml.safe_dump(config)))
    assert "FROM_THE_FUTURE" not in cfg_from_checkpoint(path).DATALOADER
    config["MODEL"]["FROM_THE_FUTURE"] = True
    path = save(tmp_path, model, meta_of(tiny_cfg(), config=yaml.safe_dump(config)))
    with pytest.raises(ValueError, match="MODEL.FROM_THE_FUTURE"):
        cfg_from_checkpoint(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to use")
def test_predictor_uses_the_cpu_without_a_gpu(tmp_path, model, image, caplog):
    path = save(tmp_path, model, meta_of(tiny_cfg(MODEL__DEVICE="cuda")))
    with caplog.at_level(logging.WARNING):
        predictor = Predictor.from_checkpoint(path)
    assert predictor.cfg.MODEL.DEVICE == "cpu"
    assert predictor(image)["instances"].scores.device.type == "cpu"


@pytest.mark.parametrize(
    "wrong", [None, np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((0, 4, 3))]
)
def test_predictor_refuses_what_is_not_a_bgr_image(tmp_path, model, wrong):
    predictor = Predictor.from_checkpoint(save(tmp_path, model, meta_of(tiny_cfg())))
    with pytest.raises(ValueError, match="BGR"):
        predictor(wrong)


def test_predictor_refuses_incomplete_weights(tmp_path, model):
    path = save(tmp_path, model.backbone, None)
    with pytest.raises(ValueError, match="model_final.pth"):
        Predictor(tiny_cfg(MODEL__WEIGHTS=path))


def test_predictor_refuses_an_input_format_without_three_channels(tmp_path, model):
    path = save(tmp_path, model, meta_of(tiny_cfg()))
    with pytest.raises(ValueError, match="'L' must be one of RGB, BGR; set INPUT.FORMAT"):
        Predictor(tiny_cfg(MODEL__WEIGHTS=path, INPUT__FORMAT="L"))
