"""Own keys: old names are refused with advice, and read in checkpoints."""

import re

import pytest
import yaml

from queryinst.config import (
    add_queryinst_config,
    config_of_checkpoint,
)
from queryinst.engine import setup_cfg
from queryinst.testing import tiny_cfg

CHECKPOINTING = "MODEL.QUERYINST.ACTIVATION_CHECKPOINTING"
OLD_KEYS = [
    ("CHECKPOINT_BACKBONE", CHECKPOINTING, 'True is now ("backbone",) and False is ()'),
    ("CHECKPOINT_BOX_HEADS", CHECKPOINTING, 'True is now ("box_heads",) and False is ()'),
    ("CHECKPOINT_MASK_HEADS", CHECKPOINTING, 'True is now ("mask_heads",) and False is ()'),
    ("SLIM", "MODEL.QUERYINST.INFERENCE_ONLY", "its values are still True and False"),
]


@pytest.mark.parametrize("place", ["file", "command line", "plain Detectron2"])
@pytest.mark.parametrize("old, new, advice", OLD_KEYS)
def test_add_queryinst_config_refuses_an_old_key(tmp_path, place, old, new, advice):
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({"VERSION": 2, "MODEL": {"QUERYINST": {old: True}}}))
    source = {"file": f"{path}: ", "command line": "the command line: "}.get(place, "")
    match = f"{source}Key MODEL.QUERYINST.{old} was renamed to {new}; .*{re.escape(advice)}"
    with pytest.raises(KeyError, match=match) as raised:
        if place == "file":
            setup_cfg(str(path))
        elif place == "command line":
            setup_cfg("", [f"MODEL.QUERYINST.{old}", "True"])
        else:
            tiny_cfg().merge_from_file(str(path))
    assert "\n" not in raised.value.args[0]


def test_add_queryinst_config_can_be_called_again():
    cfg = tiny_cfg(MODEL__QUERYINST__NUM_QUERIES=7)
    add_queryinst_config(cfg)
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 100


@pytest.mark.parametrize(
    "old, new",
    [
        ({}, {}),
        ({"NUM_QUERIES": 5}, {"NUM_QUERIES": 5}),
        ({"CHECKPOINT_BOX_HEADS": False}, {"ACTIVATION_CHECKPOINTING": []}),
        (
            {"CHECKPOINT_MASK_HEADS": True, "CHECKPOINT_BACKBONE": True, "SLIM": False},
            {"ACTIVATION_CHECKPOINTING": ["backbone", "mask_heads"], "INFERENCE_ONLY": False},
        ),
        ({"SLIM": True}, {"INFERENCE_ONLY": True}),
        ({"ACTIVATION_CHECKPOINTING": ["backbone"]}, {"ACTIVATION_CHECKPOINTING": ["backbone"]}),
    ],
)
def test_config_of_checkpoint_renames_old_keys(old, new):
    text = yaml.safe_dump({"VERSION": 2, "MODEL": {"QUERYINST": old, "MASK_ON": True}})
    expected = {"VERSION": 2, "MODEL": {"QUERYINST": new, "MASK_ON": True}}
    assert config_of_checkpoint(text, "the label") == expected


def test_config_of_checkpoint_reads_one_without_own_keys():
    assert config_of_checkpoint("VERSION: 2\n", "the label") == {"VERSION": 2}
