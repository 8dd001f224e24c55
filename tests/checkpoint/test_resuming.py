"""A run resumes from the newest checkpoint that can be read, and says which it passed over."""

import logging
import shutil

import pytest
import torch
from detectron2.utils import comm

from queryinst.checkpoint import QueryInstCheckpointer


class Trainer:
    """As the trainer's own state: an iteration and an optimizer."""

    def __init__(self, model, iteration=0):
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration, "_trainer": {"optimizer": self.optimizer.state_dict()}}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]
        self.optimizer.load_state_dict(state["_trainer"]["optimizer"])


def make_model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(4, 3)


@pytest.fixture
def run(tmp_path):
    """Three periodic checkpoints and what each holds: {file name: weights}."""
    model, weights = make_model(), {}
    trainer = Trainer(model)
    saver = QueryInstCheckpointer(model, str(tmp_path), trainer=trainer)
    for iteration in (3, 7, 11):
        model(torch.ones(1, 4)).sum().backward()
        trainer.optimizer.step()
        trainer.iteration = iteration
        saver.save(f"model_{iteration:07d}", iteration=iteration)
        weights[f"model_{iteration:07d}.pth"] = model.weight.detach().clone()
    return weights


@pytest.fixture
def resume(tmp_path, caplog, monkeypatch):
    """Resume in `tmp_path`; the iteration, the weights and the warnings."""
    for name in ("queryinst", "queryinst.checkpoint", "queryinst.checkpoint.checkpointer"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)

    def resume():
        caplog.clear()
        model = make_model(9)
        trainer = Trainer(model)
        loader = QueryInstCheckpointer(model, str(tmp_path), trainer=trainer)
        loader.resume_or_load("", resume=True)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert not any("\n" in line for line in warnings)
        return trainer.iteration, model.weight.detach(), warnings

    return resume


def change(path, edit):
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def flip(path):
    content = bytearray(path.read_bytes())
    at = content.index(torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes())
    content[at + 3] ^= 1
    path.write_bytes(content)


def set_nan(content):
    content["model"]["bias"][1] = float("nan")


def set_nan_in_moments(content):
    content["trainer"]["_trainer"]["optimizer"]["state"][0]["exp_avg"][0] = float("nan")


def set_sparse_moments(content):
    content["trainer"]["_trainer"]["optimizer"]["state"][0]["exp_avg"] = torch.eye(3).to_sparse()


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "other bytes": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "a flipped bit": flip,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "not finite": lambda path: change(path, set_nan),
    "moments not finite": lambda path: change(path, set_nan_in_moments),
    "moments sparse": lambda path: change(path, set_sparse_moments),
    "without optimizer": lambda path: change(path, lambda content: content.pop("trainer")),
    "odd meta": lambda path: change(
        path, lambda content: content.update(meta={"format_version": None})
    ),
    "no weights": lambda path: change(path, lambda content: content.update(model=None)),
    "odd iteration": lambda path: change(path, lambda content: content.update(iteration="3")),
    "odd state": lambda path: change(path, lambda c: c["trainer"].update(iteration=-1)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_resume_or_load_takes_the_checkpoint_before_a_bad_one(run, resume, tmp_path, kind):
    DAMAGE[kind](tmp_path / "model_0000011.pth")
    iteration, weight, warnings = resume()
    assert iteration == 7 and torch.equal(weight, run["model_0000007.pth"])
    assert len(warnings) == 1 and str(tmp_path / "model_0000011.pth") in warnings[0]
    assert f"resuming from {tmp_path / 'model_0000007.pth'} instead" in warnings[0]


def test_resume_or_load_goes_on_to_the_oldest(run, resume, tmp_path):
    (tmp_path / "model_0000011.pth").write_bytes(b"")
    flip(tmp_path / "model_0000007.pth")
    iteration, weight, warnings = resume()
    assert iteration == 3 and torch.equal(weight, run["model_0000003.pth"])
    assert ["0000011" in warnings[0], "0000007" in warnings[1], len(warnings)] == [True, True, 2]


def test_resume_or_load_says_nothing_of_a_good_one(run, resume):
    iteration, weight, warnings = resume()
    assert iteration == 11 and torch.equal(weight, run["model_0000011.pth"]) and not warnings


@pytest.mark.parametrize(
    "tag",
    [
        b"",
        b" \n",
        b"\xff\xfe\x00",
        b"\x00",
        b"../model_0000003.pth",
        b"/etc/passwd",
        b"..",
        b".",
        b"model_0000099.pth",
        b"a" * 5000,
        b"none.pth",
        b"model_0000011.pth\nmodel_0000003.pth",
        None,
    ],
    ids=repr,
)
def test_resume_or_load_does_without_the_tag(run, resume, tmp_path, tag):
    if tag is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_bytes(tag)
    loader = QueryInstCheckpointer(make_model(), str(tmp_path))
    assert loader.has_checkpoint()
    iteration, weight, warnings = resume()
    assert iteration == 11 and torch.equal(weight, run["model_0000011.pth"])
    assert len(warnings) == 1 and "model_0000011.pth" in warnings[0]
    assert "last_checkpoint" in warnings[0]


def test_resume_or_load_obeys_the_tag(run, resume, tmp_path):
    """A user goes back with it; and an earlier run in the folder may have gone further."""
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth\n")
    assert resume()[0] == 7
    (tmp_path / "model_0000007.pth").write_bytes(b"")
    assert resume()[0] == 3


def test_resume_or_load_takes_a_newer_one_for_want_of_an_older(run, resume, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    (tmp_path / "model_0000003.pth").unlink()
    assert resume()[0] == 11


def test_resume_or_load_knows_the_iteration_of_the_final_one(run, resume, tmp_path):
    """model_final.pth is the newest, unless a longer schedule went on after it."""
    shutil.copy(tmp_path / "model_0000007.pth", tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert resume()[0] == 11
    (tmp_path / "model_0000011.pth").unlink()
    (tmp_path / "model_0000007.pth").unlink()
    assert resume()[0] == 7


def test_resume_or_load_refuses_a_folder_without_a_readable_one(run, resume, tmp_path):
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="no checkpoint in .* can be resumed from") as error:
        resume()
    text = str(error.value)
    assert "\n" not in text and all(name in text for name in run)
    assert "remove" not in text and "MODEL.WEIGHTS" not in text


def test_resume_or_load_never_falls_back_from_a_model_that_does_not_fit(run, tmp_path):
    model = torch.nn.Linear(4, 5)
    loader = QueryInstCheckpointer(model, str(tmp_path), trainer=Trainer(model))
    with pytest.raises(ValueError, match="model_0000011.pth .* does not fit the model"):
        loader.resume_or_load("", resume=True)


def test_resume_or_load_never_falls_back_from_a_later_format(run, resume, tmp_path):
    later = {"meta": {"format_version": 2, "queryinst_version": "9.1"}}
    change(tmp_path / "model_0000011.pth", lambda content: content.update(later))
    with pytest.raises(ValueError, match="format version 2, .* install queryinst 9.1"):
        resume()


@pytest.mark.parametrize("where", ["top", "trainer"])
def test_resume_or_load_accepts_entries_that_it_does_not_know(run, resume, tmp_path, where):
    extra = {"sampler": {"seed": 3, "position": 24}, "rng": torch.get_rng_state()}

    def add(content):
        (content if where == "top" else content["trainer"]).update(extra)

    change(tmp_path / "model_0000011.pth", add)
    assert resume()[0] == 11


@pytest.mark.parametrize(
    "state",
    [
        None,
        5,
        "text",
        [],
        {},
        {"iteration": 3},
        {"iteration": 3, "_trainer": None},
        {"iteration": 3, "_trainer": {"optimizer": {"state": 3, "param_groups": 4}}},
        {"iteration": 3, "_trainer": {"optimizer": {"state": {}, "param_groups": []}}},
    ],
    ids=repr,
)
def test_resume_or_load_refuses_a_state_of_other_types(run, resume, tmp_path, state):
    change(tmp_path / "model_0000011.pth", lambda content: content.update(trainer=state))
    with pytest.raises(ValueError, match="its state of 'trainer' does not fit") as error:
        resume()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "moments", [torch.zeros(2), torch.zeros(3, 4, 1), 5.0, "text", [1]], ids=str
)
def test_check_optimizer_refuses_moments_of_another_shape(run, resume, tmp_path, moments):
    def edit(content):
        content["trainer"]["_trainer"]["optimizer"]["state"][0]["exp_avg"] = moments

    change(tmp_path / "model_0000011.pth", edit)
    with pytest.raises(ValueError, match="does not fit .*exp_avg is .*parameter of shape .3, 4."):
        resume()


def test_resume_or_load_evaluates_the_newest_readable_one(run, tmp_path):
    (tmp_path / "model_0000011.pth").write_bytes(b"")
    model = make_model(9).eval()
    QueryInstCheckpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert torch.equal(model.weight, run["model_0000007.pth"])


@pytest.mark.parametrize("damaged", [False, True])
def test_resume_or_load_takes_in_all_processes_what_the_main_one_chose(
    run, resume, tmp_path, monkeypatch, damaged
):
    if damaged:
        (tmp_path / "model_0000011.pth").write_bytes(b"")
    sent = []
    monkeypatch.setattr(comm, "all_gather", lambda data: sent.append(data) or [data, None])
    main = resume()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda data: [sent[0], data])
    other = resume()
    assert other[0] == main[0] == (7 if damaged else 11)
    assert torch.equal(other[1], main[1]) and not other[2]


def test_resume_or_load_ends_in_all_processes_if_the_main_one_finds_none(
    run, resume, tmp_path, monkeypatch
):
    sent = []
    monkeypatch.setattr(comm, "all_gather", lambda data: sent.append(data) or [data, None])
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in"):
        resume()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda data: [sent[0], data])
    with pytest.raises(ValueError, match="no checkpoint in"):
        resume()
