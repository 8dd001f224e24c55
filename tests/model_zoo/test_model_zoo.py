"""Configurations and models by name."""

from pathlib import Path

import pytest
import torch

from queryinst import QueryInst, model_zoo
from queryinst.engine import main

ROOT = Path(__file__).resolve().parents[2]
R50 = "COCO-InstanceSegmentation/queryinst_R_50_FPN_1x.yaml"
PAPER = "COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q_paper.yaml"
SMALL = "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"


def test_get_config_file_works_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")]
    assert len(names) >= 8
    for name in names:
        assert Path(model_zoo.get_config_file(name.as_posix())) == ROOT / "configs" / name


def test_get_config_is_complete_and_not_frozen():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "QueryInst"
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 300
    assert not cfg.is_frozen()


@pytest.mark.parametrize("name", ["nothing.yaml", "../pyproject.toml", str(ROOT / "setup.cfg"), ""])
def test_get_config_lists_the_names_if_there_is_none_of_that_name(name):
    with pytest.raises(RuntimeError, match="no configuration.*there are: .*" + SMALL):
        model_zoo.get_config(name)


def test_get_loads_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    monkeypatch.setattr("fvcore.common.checkpoint.Checkpointer.load", None)
    model = model_zoo.get(SMALL, device="cpu")
    assert isinstance(model, QueryInst)
    assert model.training and model.device == torch.device("cpu")


def test_get_falls_back_to_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert model_zoo.get(SMALL, device="cuda").device == torch.device("cpu")


@pytest.mark.parametrize(
    "ask",
    [
        lambda name: model_zoo.get(name, trained=True),
        lambda name: model_zoo.get_config(name, trained=True),
        model_zoo.get_checkpoint_url,
    ],
)
@pytest.mark.parametrize("name", [SMALL, PAPER])
def test_get_checkpoint_url_refuses_configurations_without_published_weights(ask, name):
    with pytest.raises(RuntimeError) as caught:
        ask(name)
    assert f"no published weights for '{name}'; there are for: {R50}" in str(caught.value)
    assert "paper" not in str(caught.value).partition(";")[2]
    with pytest.raises(RuntimeError, match="no configuration 'nothing.yaml'"):
        ask("nothing.yaml")


def test_get_config_trained_names_the_weights_and_downloads_nothing(zoo):
    url = "queryinst://mmdet/queryinst_r50_fpn_1x_coco/5a8f1998.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("QUERYINST_MODELS_YAML")
        assert model_zoo.get_checkpoint_url(R50) == url
        assert model_zoo.get_config(R50, trained=True).MODEL.WEIGHTS == url
    assert not model_zoo.get_config(R50).MODEL.WEIGHTS.startswith("queryinst://")
    assert zoo.files() == []


def test_get_trained_has_the_published_weights(zoo, make_model, make_published):
    source = make_model(seed=1)
    entry = zoo.publish(make_published(seed=1))
    model = model_zoo.get(entry["config"], trained=True, device="cpu")
    assert model.training  # as Detectron2 gives it
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_get_trained_is_complete_or_refused(zoo, make_published):
    # A training may start from another class count; the model of the zoo may not.
    entry = zoo.publish(make_published(MODEL__ROI_HEADS__NUM_CLASSES=4))
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, the file has 4"):
        model_zoo.get(entry["config"], trained=True)


def test_main_evaluates_published_weights_by_their_name(zoo, make_published, tiny_data, make_args):
    entry = zoo.publish(make_published(seed=1))
    weights = f"queryinst://{entry['config'].removesuffix('.yaml')}"
    config = {"config_file": entry["config"], "eval_only": True}
    opts = ["DATASETS.TEST", "('tiny_val',)", "MODEL.WEIGHTS", weights]
    results = main(make_args(*opts, "OUTPUT_DIR", zoo.folder / "output", **config))
    assert 0 <= results["tiny_val"]["segm"]["AP"] <= 100
