import json
import os
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from queryinst.engine import hooks
from queryinst.engine.hooks import (
    BestCheckpointer,
    FolderWatch,
    KeepNewest,
    PeriodicCheckpointer,
    StageSumPrinter,
)


def printed(printer, monkeypatch):
    lines = []
    monkeypatch.setattr(printer.logger, "info", lines.append)
    printer.write()
    return lines


def test_stage_sum_printer_sums_each_loss_over_the_stages(monkeypatch, without_gpu):
    with EventStorage(0) as storage:
        for step in range(3):
            storage.iter = step
            storage.put_scalars(data_time=0.25, time=2.0)
            storage.put_scalar("total_loss", 10.0 + step)
            storage.put_scalars(loss_cls_stage0=1.0, loss_cls_stage1=step, loss_mask_stage10=4.0)
            storage.put_scalar("lr", 0.0005, smoothing_hint=False)
        (line,) = printed(StageSumPrinter(10), monkeypatch)
    assert line.split("  ") == [
        *(" iter: 3/10", "eta: 0:00:14", "total_loss: 11", "loss_cls: 2", "loss_mask: 4"),
        *("time: 2.000 s", "data_time: 0.250 s", "lr: 0.0005"),
    ]


def test_stage_sum_printer_prints_the_first_step(monkeypatch, without_gpu):
    with EventStorage(0) as storage:
        storage.put_scalars(total_loss=3.0, loss_cls_stage0=3.0)
        (line,) = printed(StageSumPrinter(10), monkeypatch)
    assert line == " iter: 1/10  total_loss: 3  loss_cls: 3"


@pytest.mark.parametrize("iteration", [10, 11])
def test_stage_sum_printer_is_silent_after_the_last_step(monkeypatch, iteration):
    with EventStorage(iteration):
        assert printed(StageSumPrinter(10), monkeypatch) == []


def checkpoints(folder, *iterations):
    for age, iteration in enumerate(iterations):
        path = folder / f"model_{iteration:07d}.pth"
        path.touch()
        os.utime(path, (1000 + age, 1000 + age))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "keep, remaining",
    [
        (1, ["model_0000009.pth"]),
        (2, ["model_0000007.pth", "model_0000009.pth"]),
        (9, ["model_0000005.pth", "model_0000007.pth", "model_0000009.pth"]),
        (0, ["model_0000005.pth", "model_0000007.pth", "model_0000009.pth"]),
    ],
)
def test_keep_newest_keeps_the_newest_and_all_other_files(tmp_path, keep, remaining):
    checkpoints(tmp_path, 5, 7, 9)
    others = ["last_checkpoint", "model_best.pth", "model_final.pth", "my_model_0000001.pth"]
    for name in others:
        (tmp_path / name).touch()
    hook = KeepNewest(str(tmp_path), keep, period=2)
    hook.trainer = SimpleNamespace(start_iter=0, iter=9)
    hook.after_step()
    assert left(tmp_path) == sorted(remaining + others)


def test_keep_newest_goes_by_time(tmp_path):
    checkpoints(tmp_path, 79999, 89999, 1, 3)
    hook = KeepNewest(str(tmp_path), 2, period=2)
    hook.trainer = SimpleNamespace(start_iter=0, iter=3)
    hook.after_step()
    assert left(tmp_path) == ["model_0000001.pth", "model_0000003.pth"]


def test_keep_newest_deletes_nothing_between_checkpoints(tmp_path):
    checkpoints(tmp_path, 1, 3, 5)
    hook = KeepNewest(str(tmp_path), 1, period=2)
    hook.trainer = SimpleNamespace(start_iter=0, iter=6)
    hook.after_step()
    assert len(left(tmp_path)) == 3


def test_keep_newest_keeps_the_one_to_resume_from_whatever_the_clock_says(tmp_path):
    checkpoints(tmp_path, 9, 5, 7)  # 9 looks the oldest
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    hook = KeepNewest(str(tmp_path), 1, period=2)
    hook.trainer = SimpleNamespace(start_iter=0, iter=9)
    hook.after_step()
    assert left(tmp_path) == ["last_checkpoint", "model_0000007.pth", "model_0000009.pth"]


class Saved:
    """A checkpointer that only counts."""

    path_manager = None

    def __init__(self):
        self.names = []

    def save(self, name, iteration):
        self.names.append((name, iteration))


def periodic(period, minutes, keep=lambda: None):
    hook = PeriodicCheckpointer(Saved(), period, minutes, SimpleNamespace(delete_old=keep))
    hook.trainer = SimpleNamespace(start_iter=0, iter=0, max_iter=12)
    hook.before_train()
    return hook


@pytest.mark.parametrize(
    "minutes, expected",
    [
        (0, [4, 9]),
        (1.0, [1, 3, 4, 6, 8, 9]),  # 25 s a step: 50 s are too few, 75 s are enough
        (0.1, [*range(11)]),
    ],
)
def test_periodic_checkpointer_goes_by_iterations_and_minutes(monkeypatch, minutes, expected):
    clock = SimpleNamespace(now=1e6)
    monkeypatch.setattr(hooks.time, "monotonic", lambda: clock.now)
    deletions = []
    hook = periodic(5, minutes, keep=lambda: deletions.append(hook.trainer.iter))
    for hook.trainer.iter in range(12):
        clock.now += 40
        hook.after_step()
    expected = [(f"model_{iteration:07d}", iteration) for iteration in expected]
    assert hook.checkpointer.names == [*expected, ("model_final", 11)]
    assert deletions == [iteration for _, iteration in expected if iteration not in (4, 9)]


def test_periodic_checkpointer_writes_an_iteration_once_if_asked(tmp_path):
    hook = periodic(5, 0)
    for hook.trainer.iter in (4, 5):
        hook.after_step()
        hook.save_unless_saved()
        hook.save_unless_saved()
    hook.trainer.iter = 12  # after the last step
    hook.save_now()
    names = ["model_0000004", "model_0000005", "model_final"]
    assert [name for name, _ in hook.checkpointer.names] == names
    assert hook.trainer.iter == hook.checkpointer.names[-1][1] == 11


@pytest.mark.parametrize("change", ["removed", "renamed", "replaced"])
def test_folder_watch_saves_and_says_that_the_folder_is_gone(tmp_path, change):
    folder = tmp_path / "output"
    folder.mkdir()
    checkpointer = periodic(5, 0)
    hook = FolderWatch(str(folder), checkpointer)
    hook.trainer = checkpointer.trainer
    hook.before_train()
    hook.after_step()
    folder.rename(tmp_path / "other") if change == "renamed" else folder.rmdir()
    if change == "replaced":
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match="output' was removed or renamed .* after 1 iter"):
        hook.after_step()
    assert checkpointer.checkpointer.names == [("model_0000000", 0)]
    hook.close()
    hook.after_step()  # nothing is watched any more


def test_folder_watch_leaves_remote_folders_alone():
    hook = FolderWatch("s3://bucket/run", periodic(5, 0))
    hook.before_train()
    hook.after_step()
    hook.close()


def evaluate(hook, folder, iteration, value, start_iter=0):
    """What the loop does when an evaluation at `iteration` finds `value`; the weights say it."""
    with EventStorage(iteration) as storage:
        hook.trainer = SimpleNamespace(
            iter=iteration, max_iter=100, start_iter=start_iter, storage=storage
        )
        hook.before_train()
        hook._checkpointer.model.weight.data.fill_(iteration)
        if value is not None:
            storage.put_scalar("segm/AP", value, smoothing_hint=False)
        hook.after_step()
    path = folder / "model_best.pth"
    return int(torch.load(path)["model"]["weight"].item()) if path.exists() else None


@pytest.fixture
def best_hook(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    return lambda: BestCheckpointer(10, model, str(tmp_path), "segm/AP", {"kind": "train"})


def test_best_checkpointer_keeps_the_best_weights(best_hook, tmp_path):
    hook = best_hook()
    assert evaluate(hook, tmp_path, 9, float("nan")) is None
    assert evaluate(hook, tmp_path, 19, 30.0) == 19
    assert evaluate(hook, tmp_path, 29, 20.0) == 19
    assert evaluate(hook, tmp_path, 30, 50.0) == 19  # no evaluation was due
    assert evaluate(hook, tmp_path, 39, 40.0) == 39
    assert evaluate(hook, tmp_path, 49, None) == 39  # nothing of that name was found


def test_best_checkpointer_writes_only_meta_and_weights_and_no_tag(best_hook, tmp_path):
    evaluate(best_hook(), tmp_path, 9, 30.0)
    saved = torch.load(tmp_path / "model_best.pth")
    assert saved.keys() == {"model", "meta", "iteration"}
    assert left(tmp_path) == ["model_best.json", "model_best.pth"]


def test_best_checkpointer_keeps_its_value_over_a_resume(best_hook, tmp_path):
    evaluate(best_hook(), tmp_path, 9, 30.0)
    record = json.loads((tmp_path / "model_best.json").read_text())
    assert record == {"metric": "segm/AP", "value": 30.0, "iteration": 9}
    assert evaluate(best_hook(), tmp_path, 19, 25.0, start_iter=10) == 9
    assert evaluate(best_hook(), tmp_path, 29, 35.0, start_iter=20) == 29
    assert evaluate(best_hook(), tmp_path, 9, 1.0, start_iter=0) == 9


def test_best_checkpointer_ignores_the_value_of_another_metric(best_hook, tmp_path):
    evaluate(best_hook(), tmp_path, 9, 30.0)
    record = {"metric": "bbox/AP", "value": 90.0, "iteration": 9}
    (tmp_path / "model_best.json").write_text(json.dumps(record))
    assert evaluate(best_hook(), tmp_path, 19, 25.0, start_iter=10) == 19


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not valid JSON: line 1, column 1"),
        ("[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ("[1]", "holds a list, not an object"),
        ('{"metric": "segm/AP"}', "has no finite value and iteration; remove it"),
        ('{"metric": "segm/AP", "value": "high", "iteration": 9}', "has no finite value"),
        ('{"metric": "segm/AP", "value": NaN, "iteration": 9}', "has no finite value"),
        ('{"metric": "segm/AP", "value": %s, "iteration": 9}' % ("9" * 400), "has no finite value"),
    ],
)
def test_best_checkpointer_names_a_damaged_record(best_hook, tmp_path, text, message):
    (tmp_path / "model_best.json").write_text(text)
    with pytest.raises(ValueError, match=f"model_best.json {message}") as caught:
        evaluate(best_hook(), tmp_path, 19, 25.0, start_iter=10)
    assert "\n" not in str(caught.value)
