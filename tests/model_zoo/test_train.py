"""`queryinst train` without --model, from a mirror of the published weights."""

import json

import pytest
import torch
import yaml

from queryinst.model_zoo import get_config_file
from queryinst_cli import main

CONFIG = "queryinst_R_50_FPN_3x.yaml"  # of the model that is the default
TINY = "quick_schedules/queryinst_R_50_FPN_instant_test.yaml"
OPTS = ("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64")


@pytest.mark.usefixtures("untouched_logging", "without_gpu")
def test_train_starts_from_published_weights(
    zoo, make_published, make_model, tiny_data, tmp_path, capfd
):
    content = {"_BASE_": get_config_file(TINY)}
    (zoo.yaml_path.parent / CONFIG).write_text(yaml.safe_dump(content))
    entry = zoo.publish(make_published(), config=CONFIG)
    shapes = tiny_data.root / "shapes"
    data = f"{shapes / 'annotations' / 'train.json'}:{shapes / 'train'}"
    out = tmp_path / "out"
    words = ["train", data, "--output", str(out), "--iterations", "1"]
    status = main([*words, "--dry-run"])
    printed, err = capfd.readouterr()
    assert status == 0, err
    assert "R_50_FPN_3x, as trained on COCO, on cpu" in printed and not zoo.files()
    opts = ("SOLVER.BASE_LR", "1e-12", "SOLVER.EMA.ENABLED", "False", *OPTS)
    status = main([*words, "--opts", *opts])
    printed, err = capfd.readouterr()
    assert status == 0, err
    address = f"queryinst://mmdet/{entry['name']}/{entry['sha256_prefix']}.pth"
    assert address in (out / "config.yaml").read_text()
    (dataset,) = json.loads((out / "results.json").read_text())
    assert dataset.startswith("shapes_val") and (out / "val.json").exists()  # an image was held out
    trained = torch.load(out / "model_final.pth", weights_only=False)["model"]
    published = dict(make_model().named_parameters())
    assert len(published) > 100
    for name, parameter in published.items():  # a step at such a rate changes nothing
        torch.testing.assert_close(trained[name], parameter.data, msg=name)
