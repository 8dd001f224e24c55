import copy
import itertools
import logging
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.datasets import load_coco_json
from detectron2.utils import comm

from dev.reliability.tiny_training import make_data
from queryinst.data.mapper import build_mapper
from queryinst.data.train_loader import TrainLoader, build_train_loader
from queryinst.testing import tiny_cfg

NUM_IMAGES = 12
# Keys that Detectron2 reads and does not declare.
UNDECLARED = ("DATALOADER__RANDOM_SUBSET_RATIO", "DATASETS__TRAIN_REPEAT_FACTOR")


@pytest.fixture
def data():
    """Twelve images that no file has, five upright and one of no known size."""
    dicts = [
        {"image_id": number, "width": 20, "height": 30 if number < 5 else 10}
        | {"annotations": [{"category_id": number % 2, "iscrowd": 0}] * (number != 7)}
        for number in range(NUM_IMAGES)
    ]
    del dicts[-1]["width"], dicts[-1]["height"]
    DatasetCatalog.register("loader_train", lambda: copy.deepcopy(dicts))
    yield dicts
    DatasetCatalog.remove("loader_train")


def draws(dataset_dict):
    """A mapper that returns what the three generators give."""
    numbers = [random.random(), np.random.rand(), float(torch.rand(()))]
    return {"image_id": dataset_dict["image_id"], "numbers": numbers}


def build(mapper=draws, **overrides):
    known = {"DATASETS__TRAIN": ("loader_train",), "SEED": 4, "SOLVER__IMS_PER_BATCH": 2}
    known |= {"DATALOADER__FILTER_EMPTY_ANNOTATIONS": False}
    known |= overrides
    undeclared = {key: known.pop(key) for key in UNDECLARED if key in known}
    cfg = tiny_cfg(**known)
    for key, value in undeclared.items():
        section, name = key.split("__")
        cfg[section][name] = value
    return build_train_loader(cfg, mapper)


def take(loader, num):
    return list(itertools.islice(loader, num))


def ids(batches):
    return [image["image_id"] for batch in batches for image in batch]


def global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_build_train_loader_gives_the_same_for_any_number_of_workers(data):
    """Also after a start in between, and whatever was drawn before."""
    expected = take(build(), 9)
    assert len({tuple(image["numbers"]) for batch in expected for image in batch}) == 18
    for workers in (0, 1, 2):
        torch.rand(5), random.random()
        loader = build(DATALOADER__NUM_WORKERS=workers)
        before = global_states()
        assert take(loader, 4) == expected[:4]
        resumed = build(DATALOADER__NUM_WORKERS=2 - workers)
        resumed.load_state_dict(loader.state_dict())
        assert take(resumed, 5) == expected[4:]
        assert global_states() == before  # the model's numbers do not depend on the loader
    assert take(build(SEED=5), 9) != expected


def test_build_train_loader_goes_through_all_images_in_short_lives(data):
    """Eight lives of three iterations, which saw the same six images before."""
    state, lives = build().state_dict(), []
    for _ in range(8):
        loader = build(DATALOADER__ASPECT_RATIO_GROUPING=False)
        loader.load_state_dict({**state})
        lives += ids(take(loader, 3))
        state = loader.state_dict()
    assert sorted(lives) == sorted(list(range(NUM_IMAGES)) * 4)


def test_build_train_loader_keeps_orientations_apart(data):
    upright = [{number < 5 for number in ids([batch])} for batch in take(build(), 30)]
    assert all(len(x) == 1 for x in upright) and {x for y in upright for x in y} == {True, False}
    mixed = take(build(DATALOADER__ASPECT_RATIO_GROUPING=False), 30)
    assert any(len({number < 5 for number in ids([batch])}) == 2 for batch in mixed)


@pytest.mark.parametrize(
    "overrides, per_epoch",
    [
        ({"SAMPLER_TRAIN": "TrainingSampler"}, {1: 12}),
        ({"SAMPLER_TRAIN": "TrainingSampler", "FILTER_EMPTY_ANNOTATIONS": True}, {1: 11}),
        ({"SAMPLER_TRAIN": "RandomSubsetTrainingSampler", "RANDOM_SUBSET_RATIO": 0.5}, {1: 6}),
        # Class 0 is in 6 of 12 images, class 1 in 5: factors sqrt(2 / (6 / 12)) and of 5 / 12.
        ({"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_THRESHOLD": 2.0}, {2: 6, 1: 1}),
    ],
)
def test_build_train_loader_knows_detectron2_samplers(data, overrides, per_epoch):
    loader = build(**{f"DATALOADER__{key}": value for key, value in overrides.items()})
    images, counts = np.unique(loader._order.epoch(4, 0), return_counts=True)
    for count, num in per_epoch.items():
        assert (counts == count).sum() >= num if len(per_epoch) > 1 else len(images) == num
    resumed = build(**{f"DATALOADER__{key}": value for key, value in overrides.items()})
    expected = take(loader, 3)
    state = loader.state_dict()
    resumed.load_state_dict(state)
    assert take(resumed, 3) == take(loader, 3) != expected


@pytest.mark.parametrize("name", ["WeightedTrainingSampler", "WeightedCategoryTrainingSampler"])
def test_build_train_loader_weighs_data_sets(data, name):
    factors = {"DATASETS__TRAIN_REPEAT_FACTOR": [["loader_train", 3.0]]}
    loader = build(DATALOADER__SAMPLER_TRAIN=name, **factors)
    assert len(loader._order.epoch(4, 0)) >= (36 if name == "WeightedTrainingSampler" else 12)


def test_build_train_loader_refuses_an_unknown_sampler(data):
    with pytest.raises(ValueError, match="SAMPLER_TRAIN 'Mine' must be one of TrainingSampler, "):
        build(DATALOADER__SAMPLER_TRAIN="Mine")
    with pytest.raises(ValueError, match="needs DATALOADER.RANDOM_SUBSET_RATIO"):
        build(DATALOADER__SAMPLER_TRAIN="RandomSubsetTrainingSampler")
    with pytest.raises(ValueError, match="needs DATASETS.TRAIN_REPEAT_FACTOR"):
        build(DATALOADER__SAMPLER_TRAIN="WeightedTrainingSampler")


def test_build_train_loader_leaves_other_data_sets_to_detectron2(data):
    dicts = DatasetFromList(data)
    DatasetCatalog.register("loader_map_style", lambda: dicts)
    try:
        loader = build(
            DATASETS__TRAIN=("loader_map_style",), DATALOADER__ASPECT_RATIO_GROUPING=False
        )
        assert not isinstance(loader, TrainLoader) and len(next(iter(loader))) == 2
    finally:
        DatasetCatalog.remove("loader_map_style")


def test_train_loader_replaces_what_the_mapper_leaves_out(data):
    def even(dataset_dict):
        return None if dataset_dict["image_id"] % 2 else draws(dataset_dict)

    batches = take(build(even), 12)
    assert all(number % 2 == 0 for number in ids(batches)) and len(set(ids(batches))) > 3
    assert take(build(even, DATALOADER__NUM_WORKERS=2), 12) == batches
    with pytest.raises(ValueError, match="returns None for all 12 images"):
        take(build(lambda dataset_dict: None), 1)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"DATALOADER__NUM_WORKERS": 2}, None),
        ({"SEED": 9}, None),  # the run's own is in the state
        ({"SOLVER__IMS_PER_BATCH": 3}, ["images_per_process was 2 and is 3", "of epoch 1"]),
        ({"DATALOADER__FILTER_EMPTY_ANNOTATIONS": True}, ["anew", "num_images was 12 and is 11"]),
        (
            {"DATALOADER__SAMPLER_TRAIN": "RepeatFactorTrainingSampler"},
            ["anew", "sampler was TrainingSampler and is Repeat"],
        ),
    ],
)
def test_load_state_dict_says_in_a_line_what_changed(data, caplog, overrides, words):
    before = build()
    state = take(before, 8) and before.state_dict()
    assert state["epoch"] == 1 and state["held"]
    loader = build(**overrides)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        loader.load_state_dict(state)
    assert len(caplog.records) == bool(words) and loader.was_restored
    assert all(word in caplog.text for word in words or ())
    positions = (loader.state_dict()["epoch"], loader.state_dict()["offset"])
    assert positions == ((0, 0) if "anew" in caplog.text else (state["epoch"], state["offset"]))


def warnings_of(caplog):
    return [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]


def test_load_state_dict_says_that_the_number_of_processes_changed(data, caplog):
    build().load_state_dict({**build().state_dict(), "world_size": 4})
    assert [x.count("world_size was 4 and is 1") for x in warnings_of(caplog)] == [1]


def test_train_loader_shares_a_batch_among_processes(data, monkeypatch):
    overrides = {"SOLVER__IMS_PER_BATCH": 4, "DATALOADER__ASPECT_RATIO_GROUPING": False}
    whole = take(build(**overrides), 5)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares, states = [], []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        loader = build(**overrides)
        shares.append(take(loader, 5))
        states.append(loader.state_dict())
    in_turn = [[image for pair in zip(*both) for image in pair] for both in zip(*shares)]
    assert in_turn == whole
    assert states[0] == states[1]


def test_load_state_dict_knows_another_data_set_of_the_same_size(data, caplog):
    state = build().state_dict()
    build().load_state_dict({**state, "datasets": ["other"]})
    build().load_state_dict({**state, "checksum": 1})
    assert [x.count("anew") for x in warnings_of(caplog)] == [1, 1]


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": -1},
        {"offset": "x"},
        {"held": 5},
        {"held": [[0, 99]]},
        {"held": [[0]]},
        {"seed": None},
        {"seed": -3},
        {"offset": float("inf")},
    ],
)
def test_load_state_dict_refuses_what_is_no_place(data, damage):
    loader = build()
    with pytest.raises(ValueError, match="no place in an order of images"):
        loader.load_state_dict({**loader.state_dict(), **damage})
    with pytest.raises(ValueError, match="no place in an order of images"):
        loader.load_state_dict([])


def test_start_at_counts_the_images_of_earlier_iterations(data):
    overrides = {"DATALOADER__ASPECT_RATIO_GROUPING": False, "SOLVER__IMS_PER_BATCH": 5}
    loader = build(**overrides)
    loader.start_at(7)
    assert take(loader, 3) == take(build(**overrides), 10)[7:]


def test_mapper_augments_by_the_position_alone(tmp_path):
    """Flips, sizes and crops of the real mapper."""
    (_, json_file, folder), _ = make_data(tmp_path)
    crop = {"INPUT__CROP__ENABLED": True, "INPUT__CROP__TYPE": "absolute_range"}
    crop |= {"INPUT__CROP__SIZE": (32, 64), "INPUT__CROP__RESIZE_BEFORE": (60, 90)}
    cfg = tiny_cfg(DATASETS__TRAIN=("loader_real",), INPUT__MIN_SIZE_TRAIN=(48, 64, 80), **crop)
    cfg.SEED, cfg.SOLVER.IMS_PER_BATCH = 1, 2
    DatasetCatalog.register("loader_real", lambda: load_coco_json(json_file, folder))
    images = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        np.random.seed(workers)
        loader = build_train_loader(cfg, build_mapper(cfg, is_train=True))
        images.append([image["image"] for batch in take(loader, 6) for image in batch])
    DatasetCatalog.remove("loader_real")
    assert all(map(torch.equal, *images)) and len({image.shape for image in images[0]}) > 2
