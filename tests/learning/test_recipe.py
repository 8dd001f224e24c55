"""Which runs of the recipe's comparison are missing, and its table."""

import argparse
import json

from dev.learning.recipe import RATES, SOURCE, Comparison, Task
from dev.learning.recipe_table import recipe_table


def comparison(folder, seeds=(1, 2)):
    return Comparison(argparse.Namespace(output=str(folder), data=["coins"], seeds=seeds))


def finish(folder, task, mask_ap):
    (folder / task.folder).mkdir()
    figures = {"box_ap": mask_ap - 1, "mask_ap": mask_ap}
    raw = {"box_ap": mask_ap - 3, "mask_ap": mask_ap - 2}
    record = task._asdict() | {"final": figures, "raw": raw, "steps": 10, "seconds": 5.0}
    (folder / task.folder / "record.json").write_text(json.dumps(record))


def test_missing_has_what_others_need_first(tmp_path):
    runs = comparison(tmp_path)
    source = Task(SOURCE, "shapes", "random", 1, RATES[0])
    ours = [
        Task("recipe", "coins", start, seed) for start in ("trained", "random") for seed in (1, 2)
    ]
    assert list(runs.missing()) == [source, *ours]
    finish(tmp_path, ours[0], 50.0)
    assert not [task for task in runs.missing() if task.model == "maskrcnn"]  # it has no weights
    finish(tmp_path, source, 0.0)
    peers = [Task("maskrcnn", "coins", "trained", 1, rate) for rate in RATES]
    assert [task for task in runs.missing() if task.model == "maskrcnn"] == peers
    finish(tmp_path, peers[0], 30.0)
    finish(tmp_path, peers[1], 40.0)
    (peer,) = [task for task in runs.missing() if task.model == "maskrcnn"]
    assert peer == Task("maskrcnn", "coins", "trained", 2, RATES[1])  # the best rate


def test_recipe_table_has_means_with_and_without_the_average(tmp_path):
    runs = comparison(tmp_path)
    for seed, mask_ap in ((1, 50.0), (2, 60.0)):
        finish(tmp_path, Task("recipe", "coins", "trained", seed), mask_ap)
    for seed, rate, mask_ap in ((1, RATES[0], 30.0), (1, RATES[1], 40.0), (2, RATES[1], 44.0)):
        finish(tmp_path, Task("maskrcnn", "coins", "random", seed, rate), mask_ap)
    assert recipe_table(runs.records()).splitlines()[2:] == [
        "| coins | QueryInst, recipe from the demo's weights | 10 | 5 | 2 | 54.0 (49.0 to 59.0) "
        "| 55.0 (50.0 to 60.0) |",
        "| coins | the same without the average | 10 | 5 | 2 | 52.0 (47.0 to 57.0) "
        "| 53.0 (48.0 to 58.0) |",
        "| coins | Mask R-CNN from random weights | 10 | 5 | 2 | 41.0 (39.0 to 43.0) "
        "| 42.0 (40.0 to 44.0) |",
    ]
