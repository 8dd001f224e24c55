"""The derived keys over what data sets can be, held to what a run needs and to figures by hand."""

from itertools import pairwise

import numpy as np
import pytest

from queryinst.recipe.configuring import configure, get_key, wishes_of
from queryinst.recipe.deriving import derive
from queryinst.recipe.sizes import WANTED, small_objects
from queryinst.recipe.starting import start_from
from queryinst.recipe.statistics import DataStatistics, statistics_of
from queryinst.recipe.structures import Machine, Request, Wishes

CPU = Machine("cpu", 16_000_000_000, 8)
GPU = Machine("cuda", 24_000_000_000, 8)


def data(images, objects, side=256, size=40.0, classes=1, empty=0, width=None):
    """`images` alike with `objects` each, on a grid, and `empty` ones without."""
    width = width or side
    each = np.arange(objects)
    columns = max(1, int(np.ceil(np.sqrt(objects))))
    centers = np.stack([each % columns + 0.5, each // columns + 0.5], axis=1)
    return DataStatistics(
        class_names=tuple(f"class {number}" for number in range(classes)),
        heights=np.full(images + empty, side),
        widths=np.full(images + empty, width),
        image_idx=np.repeat(np.arange(images), objects),
        class_idx=np.arange(images * objects) % classes,
        centers=np.tile(centers * [width / columns, side / columns], (images, 1)),
        sizes=np.full(images * objects, float(size)),
    )


DATA = {
    "one image": data(1, 12),
    "50 images": data(50, 3, side=128),
    "5,000 images": data(5000, 7, side=480, width=640, size=90, classes=20),
    "100,000 images": data(100_000, 1, side=480, width=640, size=200, classes=80),
    "one object an image": data(300, 1, size=100),
    "400 objects an image": data(20, 400, side=1000, size=25),
    "2,000 objects an image": data(3, 2000, side=2000, size=20),
    "images of 64 pixels": data(500, 2, side=64, size=20),
    "images of 8,000 pixels": data(30, 20, side=8000, size=900),
    "tiny objects": data(100, 10, side=8000, size=25),
    "objects as large as the image": data(40, 1, side=300, size=300),
    "panoramas": data(40, 5, side=500, width=5000, size=60),
    "mostly images without objects": data(10, 2, empty=90),
    "some images without objects": data(90, 2, empty=10),
}
STARTS = ("none", "R_50_FPN_3x", "R_101_FPN_3x_300q", "file")
MACHINES = {"CPU": CPU, "GPU": GPU, "small": Machine("cpu", 1_000_000_000, 1)}
MACHINES["unknown memory"] = Machine("mps", None, 4)


@pytest.fixture(scope="module")
def bases(save_tiny_model, tmp_path_factory):
    """Configuration and start of each of STARTS."""
    file = str(save_tiny_model(tmp_path_factory.mktemp("checkpoint")))
    return {name: start_from(file if name == "file" else name, 1) for name in STARTS}


def values_of(derived):
    keys = [x.key for x in derived]
    assert len(set(keys)) == len(keys)
    assert all(x.reason and "\n" not in x.reason for x in derived)
    return {x.key: x.value for x in derived}


def derived_cfg(bases, start, machine, train, wishes=Wishes(), opts=()):
    base, known = bases[start]
    derived = derive(train, train, known, machine, wishes)
    names = {"train": "a", "val": "b"}
    cfg = configure(base, derived, opts, device="cpu", output="output/x", **names)
    return cfg, values_of(derived)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("name", DATA)
def test_derive_gives_a_run_that_can_be(bases, name, half):
    turn = list(DATA).index(name)
    start = STARTS[(turn + 2 * half) % len(STARTS)]
    train, machine = DATA[name], list(MACHINES.values())[(turn // 2 + half) % len(MACHINES)]
    cfg, values = derived_cfg(bases, start, machine, train)  # within all limits
    for key, value in values.items():
        assert get_key(cfg, key) == value or list(get_key(cfg, key)) == list(value)
    solver, queryinst = cfg.SOLVER, cfg.MODEL.QUERYINST
    assert 0 <= solver.WARMUP_ITERS < solver.MAX_ITER
    assert all(a < b for a, b in pairwise([0, *solver.STEPS, solver.MAX_ITER]))
    assert 1 <= solver.ACCUMULATE_STEPS <= solver.IMS_PER_BATCH <= 16
    assert 1 <= cfg.TEST.EVAL_PERIOD <= solver.MAX_ITER
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(train.class_names)
    assert max(cfg.INPUT.MIN_SIZE_TRAIN) <= cfg.INPUT.MAX_SIZE_TRAIN
    assert cfg.INPUT.MIN_SIZE_TEST <= cfg.INPUT.MAX_SIZE_TEST <= 4000
    if cfg.INPUT.CROP.ENABLED:
        assert max(cfg.INPUT.CROP.SIZE) <= train.short_side
    at_once = train.most_objects
    if cfg.INPUT.CROP.ENABLED:
        at_once = max(train.most_in_window(cfg.INPUT.CROP.SIZE[0]), at_once)
    assert queryinst.NUM_QUERIES >= min(at_once, 900)
    assert cfg.TEST.DETECTIONS_PER_IMAGE >= min(at_once, queryinst.NUM_QUERIES)
    if queryinst.NUM_QUERIES != bases[start][1].num_queries and start != "none":
        assert queryinst.ALLOW_UNLOADED and queryinst.INITIAL_GRID_SIZES
    views = solver.MAX_ITER * solver.IMS_PER_BATCH
    assert 400 <= views <= 20_000_000


def test_derive_takes_what_it_takes_from_docs_learning_for_a_small_model(bases):
    cfg, _ = derived_cfg(bases, "none", CPU, data(2000, 3, side=128, size=44, classes=3))
    assert cfg.INPUT.MIN_SIZE_TRAIN == (128,) and cfg.INPUT.MIN_SIZE_TEST == 128
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (2200, 4, 0.001)
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 30 and not cfg.INPUT.CROP.ENABLED
    assert cfg.MODEL.QUERYINST.INITIAL_GRID_SIZES == (0.34,)  # 44 of 128
    assert cfg.MODEL.QUERYINST.DENOISING_GROUPS == 2
    assert cfg.MODEL.QUERYINST.MASK_BCE_WEIGHT == 4.0


def test_derive_keeps_the_published_recipe_for_coco(bases):
    cfg, _ = derived_cfg(bases, "R_50_FPN_3x", GPU, data(5000, 7, 480, 90, 80, width=640))
    assert max(cfg.INPUT.MIN_SIZE_TRAIN) == cfg.INPUT.MIN_SIZE_TEST == 800
    assert min(cfg.INPUT.MIN_SIZE_TRAIN) == 480 and cfg.INPUT.MAX_SIZE_TEST == 1333
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 100 and cfg.SOLVER.IMS_PER_BATCH <= 16
    rate = 0.0001 * (cfg.SOLVER.IMS_PER_BATCH / 16) ** 0.5
    assert cfg.SOLVER.BASE_LR == pytest.approx(rate, rel=0.01)
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / 5000
    assert epochs == pytest.approx(12, rel=0.01)  # those of the 1x schedule


@pytest.mark.parametrize("start", ["none", "R_50_FPN_3x"])
def test_derive_shows_parts_of_images_larger_whose_objects_are_small(bases, start):
    train = data(100, 10, side=1500, size=20)
    cfg, _ = derived_cfg(bases, start, GPU, train)
    assert cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "relative_range"
    scale = cfg.INPUT.MIN_SIZE_TEST / 1500
    whole = bases[start][1].short_side / 1500
    assert scale > whole and 20 * scale <= 1.1 * WANTED
    assert list(cfg.INPUT.CROP.SIZE) == [0.5, 0.5]  # parts of 0.75 of a side in the mean
    middle = sorted(cfg.INPUT.MIN_SIZE_TRAIN)[1] / (0.75 * 1500)
    assert middle == pytest.approx(scale, rel=0.15)


def test_derive_cuts_few_images_into_large_parts(bases):
    cfg, _ = derived_cfg(bases, "none", CPU, data(3, 12, side=200, size=50))
    assert cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.TYPE == "relative_range"
    assert min(cfg.INPUT.CROP.SIZE) == 0.7
    # On the average an object is as large a share of what is trained on as of what is evaluated.
    middle = sorted(cfg.INPUT.MIN_SIZE_TRAIN)[1] / (0.85 * 200)
    assert middle == pytest.approx(cfg.INPUT.MIN_SIZE_TEST / 200, rel=0.1)
    assert cfg.MODEL.QUERYINST.INITIAL_GRID_SIZES == (0.29,)  # 50 of 170


def test_derive_cuts_windows_where_the_images_held_out_are_smaller(bases):
    base, start = bases["none"]
    train, val = data(20, 100, side=500, size=30), data(20, 9, side=170, size=30)
    cfg = configure(
        base, derive(train, val, start, CPU), (), device="cpu", output="x", train="a", val="b"
    )
    assert cfg.INPUT.CROP.TYPE == "absolute" and list(cfg.INPUT.CROP.SIZE) == [170, 170]
    middle = sorted(cfg.INPUT.MIN_SIZE_TRAIN)[1] / 170
    assert middle == pytest.approx(cfg.INPUT.MIN_SIZE_TEST / 170, rel=0.1)
    assert cfg.MODEL.QUERYINST.NUM_QUERIES < 60  # 12 of 100 objects are in a window


@pytest.mark.parametrize("size, num_notes", [(12, 1), (600, 0)])
def test_small_objects_are_noted(bases, size, num_notes):
    train = data(30, 5, side=3000, width=4000, size=size)
    cfg, _ = derived_cfg(bases, "none", CPU, train)
    sides = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    notes = small_objects(train, train, *sides)
    assert len(notes) == num_notes and all("at most 12 pixels a side, 2 where" in x for x in notes)


def test_derive_repeats_images_of_rare_classes(bases):
    train = data(100, 1, classes=2)
    rare = np.zeros(100, dtype=np.int64)
    rare[:2] = 1
    uneven = DataStatistics(**{**vars(train), "class_idx": rare})
    cfg, _ = derived_cfg(bases, "none", CPU, uneven)
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    share = np.array([0.98, 0.02])
    factors = np.maximum(1, np.sqrt(cfg.DATALOADER.REPEAT_THRESHOLD / share))
    assert 1 < factors[1] <= 4.01
    assert derived_cfg(bases, "none", CPU, train)[0].DATALOADER.SAMPLER_TRAIN == "TrainingSampler"


def test_derive_trains_on_images_without_objects_unless_they_are_most(bases):
    for name, filtered in (("mostly", True), ("some", False)):
        train = DATA[f"{name} images without objects"]
        cfg, _ = derived_cfg(bases, "none", CPU, train)
        assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is filtered


def test_derive_mirrors_nothing_where_classes_tell_left_from_right(bases):
    train = data(10, 2, classes=2)
    hands = DataStatistics(**{**vars(train), "class_names": ("left hand", "Right-Hand")})
    assert derived_cfg(bases, "none", CPU, hands)[0].INPUT.RANDOM_FLIP == "none"
    assert derived_cfg(bases, "none", CPU, train)[0].INPUT.RANDOM_FLIP == "horizontal"


def test_derive_pastes_objects_of_few_images_in_long_trainings(bases):
    few, many = data(50, 3), data(2000, 3)
    cases = [(few, 800, 0.7), (few, 799, 0.0), (many, 800, 0.0), (data(1, 3), 800, 0.0)]
    for train, iterations, expected in cases:
        cfg, _ = derived_cfg(bases, "none", CPU, train, Wishes(iterations=iterations))
        assert cfg.INPUT.COPY_PASTE == expected


@pytest.mark.parametrize("memory, at_least, at_most", [(8, 1, 3), (24, 8, 16), (80, 16, 16)])
def test_derive_takes_the_batch_that_fits(bases, memory, at_least, at_most):
    """docs/scaling.md: 2.8 GB and 1.25 GB an image of 800x1333 are reserved on an H100."""
    train = data(5000, 7, side=800, width=1333, size=100, classes=80)
    machine = Machine("cuda", memory * 10**9, 16)
    cfg, _ = derived_cfg(bases, "R_50_FPN_3x", machine, train)
    assert at_least <= cfg.SOLVER.IMS_PER_BATCH <= at_most
    assert cfg.SOLVER.ACCUMULATE_STEPS == 1
    asked, _ = derived_cfg(bases, "R_50_FPN_3x", machine, train, Wishes(batch=16))
    parts = asked.SOLVER.ACCUMULATE_STEPS
    assert asked.SOLVER.IMS_PER_BATCH == 16
    assert -(-16 // parts) <= max(cfg.SOLVER.IMS_PER_BATCH, 1)


def test_derive_saves_memory_where_no_image_fits(bases):
    machine = Machine("cuda", 4 * 10**9, 4)
    cfg, _ = derived_cfg(bases, "R_50_FPN_3x", machine, data(50, 7, side=800, width=1333, size=99))
    assert cfg.SOLVER.IMS_PER_BATCH == 1
    assert len(cfg.MODEL.QUERYINST.ACTIVATION_CHECKPOINTING) == 3


@pytest.mark.parametrize(
    "wishes, expected",
    [(Wishes(epochs=3), 3 * 50 // 4 + 1), (Wishes(iterations=7), 7), (Wishes(1, None, 7), 8)],
)
def test_derive_does_as_asked(bases, wishes, expected):
    cfg, _ = derived_cfg(bases, "none", CPU, data(50, 3), wishes)
    assert cfg.SOLVER.MAX_ITER == expected
    assert cfg.SOLVER.IMS_PER_BATCH == (wishes.batch or 4)


def test_configure_lets_opts_win_and_derives_what_depends_on_them(bases):
    base, start = bases["none"]
    opts = ["SOLVER.MAX_ITER", "90", "MODEL.QUERYINST.NUM_QUERIES", "7", "SOLVER.BASE_LR", "0.5"]
    wishes = wishes_of(base, request(opts))
    assert wishes == Wishes(iterations=90, queries=7)
    cfg, values = derived_cfg(bases, "none", CPU, data(50, 3), wishes, opts)
    assert cfg.SOLVER.MAX_ITER == 90 and cfg.SOLVER.WARMUP_ITERS == 9
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 7 and cfg.SOLVER.BASE_LR == 0.5
    assert values["SOLVER.BASE_LR"] == 0.002


def request(opts):
    return Request(("", ""), None, None, None, None, tuple(opts))


@pytest.mark.parametrize("key", ["OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.TRAIN"])
def test_wishes_of_refuses_what_other_options_set(bases, key):
    with pytest.raises(ValueError, match=f"{key} is set by"):
        wishes_of(bases["none"][0], request([key, "x"]))


def test_statistics_of_counts_objects_and_not_crowds():
    coco = {
        "images": [{"id": "b", "height": 10, "width": 20}, {"id": "a", "height": 30, "width": 5}],
        "categories": [{"id": 7, "name": "late"}, {"id": 2, "name": "early"}],
        "annotations": [
            {"image_id": "a", "category_id": 7, "bbox": [0, 0, 4, 9], "iscrowd": 0},
            {"image_id": "b", "category_id": 2, "bbox": [2, 2, 2, 8]},
            {"image_id": "a", "category_id": 2, "bbox": [1, 1, 2, 2], "iscrowd": 1},
        ],
    }
    found = statistics_of(coco)
    assert found.class_names == ("early", "late")
    assert found.objects_per_image.tolist() == [1, 1] and found.num_empty == 0
    assert found.class_idx.tolist() == [0, 1] and found.sizes.tolist() == [4.0, 6.0]
    assert found.centers.tolist() == [[3.0, 6.0], [2.0, 4.5]]
    assert (found.short_side, found.long_side) == (7.5, 25.0)
    assert found.images_per_class.tolist() == [1, 1]


def test_most_in_window_counts_the_densest_square():
    generator = np.random.default_rng(0)
    centers = generator.uniform(0, 100, (60, 2))
    image_idx = np.sort(generator.integers(0, 3, 60))
    zeros = np.zeros(60, dtype=np.int64)
    found = DataStatistics(
        ("a",), np.full(3, 100), np.full(3, 100), image_idx, zeros, centers, np.ones(60)
    )
    expected = max(
        sum(
            image_idx[i] == image_idx[j] and np.abs(centers[i] - centers[j]).max() <= 15
            for j in range(60)
        )
        for i in range(60)
    )
    assert found.most_in_window(30) == expected > 1
