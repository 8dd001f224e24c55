"""Configurations and models by name."""

from pathlib import Path

import pytest
import torch

from queryinst import QueryInst, model_zoo

ROOT = Path(__file__).resolve().parents[2]
SMALL = "Shapes-InstanceSegmentation/queryinst_R_18_FPN.yaml"


def test_every_configuration_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")]
    assert len(names) >= 8
    for name in names:
        assert Path(model_zoo.get_config_file(name.as_posix())) == ROOT / "configs" / name


def test_config_is_complete_and_not_frozen():
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "QueryInst"
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 300
    assert not cfg.is_frozen()


@pytest.mark.parametrize("name", ["nothing.yaml", "../pyproject.toml", str(ROOT / "setup.cfg"), ""])
def test_unknown_name_is_an_error_that_lists_the_names(name):
    with pytest.raises(RuntimeError, match="no configuration.*there are: .*" + SMALL):
        model_zoo.get_config(name)


def test_model_is_built_without_loading_anything(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    monkeypatch.setattr("fvcore.common.checkpoint.Checkpointer.load", None)
    model = model_zoo.get(SMALL, device="cpu")
    assert isinstance(model, QueryInst)
    assert model.training and model.device == torch.device("cpu")


def test_model_falls_back_to_the_cpu(monkeypatch):
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
def test_trained_weights_are_not_known_yet(ask):
    with pytest.raises(NotImplementedError, match=f"no trained weights for '{SMALL}'"):
        ask(SMALL)
    with pytest.raises(RuntimeError, match="no configuration 'nothing.yaml'"):
        ask("nothing.yaml")
