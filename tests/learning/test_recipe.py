"""Which runs of the recipe's comparison are missing, and its table."""

import argparse
import json

from dev.learning.recipe import RATE, SOURCE_TASK, Comparison, Task
from dev.learning.recipe_table import recipe_table


def comparison(folder, seeds=(1, 2)):
    return Comparison(argparse.Namespace(output=str(folder), data=["coins"], seeds=seeds))


def finish(folder, task, mask_ap):
    (folder / task.folder).mkdir()
    figures = {"box_ap": mask_ap - 1, "mask_ap": mask_ap}
    raw = {"box_ap": mask_ap - 3, "mask_ap": mask_ap - 2}
    record = task._asdict() | {"final": figures, "raw": raw, "steps": 10, "seconds": 5.0}
    (folder / task.folder / "record.json").write_text(json.dumps(record))


def test_missing_leaves_what_has_to_wait(tmp_path):
    runs = comparison(tmp_path)
    ready = [("recipe", "trained"), ("recipe", "random"), ("maskrcnn", "random")]
    missing = list(runs.missing())
    assert missing[0] == SOURCE_TASK and len(missing) == 1 + 2 * len(ready)
    assert {(task.model, task.start) for task in missing[1:]} == set(ready)
    finish(tmp_path, SOURCE_TASK, 0.0)
    finish(tmp_path, missing[1], 50.0)
    now = list(runs.missing())
    assert len(now) == 2 * 4 - 1 and missing[1] not in now
    assert Task("maskrcnn", "coins", "trained", 2, RATE) in now


def test_recipe_table_has_means_with_and_without_the_average(tmp_path):
    runs = comparison(tmp_path)
    for seed, mask_ap in ((1, 50.0), (2, 60.0)):
        finish(tmp_path, Task("recipe", "coins", "trained", seed), mask_ap)
    for seed, mask_ap in ((1, 40.0), (2, 44.0)):
        finish(tmp_path, Task("maskrcnn", "coins", "random", seed, RATE), mask_ap)
    assert recipe_table(runs.records()).splitlines()[2:] == [
        "| coins | QueryInst, recipe from the demo's weights | 10 | 5 | 2 | 54.0 (49.0 to 59.0) "
        "| 55.0 (50.0 to 60.0) |",
        "| coins | the same without the average | 10 | 5 | 2 | 52.0 (47.0 to 57.0) "
        "| 53.0 (48.0 to 58.0) |",
        "| coins | Mask R-CNN from random weights | 10 | 5 | 2 | 41.0 (39.0 to 43.0) "
        "| 42.0 (40.0 to 44.0) |",
    ]
