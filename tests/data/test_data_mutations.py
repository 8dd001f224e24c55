"""Some of the mutated files of `python -m dev.data_mutations`."""

import json
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest

from dev.data_mutations import __main__ as command
from dev.data_mutations.oracle import read_truth
from dev.data_mutations.valid_set import CLASSES, make_content, masks_of
from dev.fuzz.outcomes import WrongResultError


def test_read_truth_has_the_drawn_masks():
    truth = read_truth(make_content())
    assert truth.classes == list(CLASSES) and len(truth.objects) == 6
    for number in range(6):
        found = truth.objects[f"{number}.png"]
        drawn = [mask.astype(np.uint8) for mask in masks_of(number)]
        assert [x.mask for x in found] == [mask.tobytes() for mask in drawn]
        boxes = [mask_util.toBbox(mask_util.encode(np.asfortranarray(mask))) for mask in drawn]
        np.testing.assert_array_equal([x.box for x in found], boxes)


def test_main_finds_no_defect(capfd):
    assert command.main(["--inputs", "40", "--workers", "1"]) == 0
    table = capfd.readouterr().out
    counts = dict(re.findall(r"^\| (.+) \| (\d+) \|$", table, re.MULTILINE))
    by_outcome = {key: int(counts[title]) for key, title in command.OUTCOMES.items()}
    assert sum(by_outcome.values()) == 40
    assert by_outcome[command.CLEAR] > 10 and by_outcome[command.AS_BEFORE] > 5
    assert by_outcome[command.BARE] == by_outcome[command.WRONG] == by_outcome[command.FATAL] == 0


@pytest.mark.parametrize("reader", ["training", "evaluation"])
def test_mutations_sees_what_is_accepted_in_silence(tmp_path, monkeypatch, reader):
    """A check that says nothing is a defect."""
    kind = command.Mutations()
    kind.prepare(tmp_path)
    content = make_content()
    content["annotations"][1]["bbox"] = [54, 6, 0, 20]
    given = {"text": json.dumps(content), "said": "an empty box"}
    kind.run(given, tmp_path)
    monkeypatch.setattr("queryinst.data.checks.log_warnings", lambda findings: None)
    said = "training sees 1 objects"
    if reader == "evaluation":
        monkeypatch.setattr("dev.data_mutations.trial._compare_training", lambda *_: None)
        said = "perfect predictions have a bbox AP of"
    with pytest.raises(WrongResultError, match=said):
        kind.run(given, tmp_path)
