"""Tracker: identities in drawn scenes whose truth is known."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from queryinst.predict.tracking import Tracker, _way_into
from queryinst_runtime.masks import encode_rle
from queryinst_runtime.results import Result

HEIGHT, WIDTH = 120, 160
NUM_FRAMES = 30
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def result_of(masks, classes, with_masks=True):
    """A Result of these (n, H, W) masks and of their boxes."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Result(
        image_size=(HEIGHT, WIDTH),
        boxes=boxes,
        scores=np.full(len(masks), 0.9, np.float32),
        classes=np.array(classes, np.int64).reshape(-1),
        query_idx=np.arange(len(masks)),
        rles=[encode_rle(mask) for mask in masks] if with_masks else None,
    )


class Disc:
    """A disc that moves straight on: `start` at frame 0, `speed` per frame, x and y in pixels."""

    def __init__(self, start, speed, radius=12, label=0, frames=range(NUM_FRAMES), missed=()):
        self.start, self.speed, self.radius = np.array(start), np.array(speed), radius
        self.label, self.frames, self.missed = label, frames, missed

    def mask(self, frame):
        x, y = self.start + self.speed * frame
        return (COLUMNS - x) ** 2 + (ROWS - y) ** 2 <= self.radius**2


def play(discs, tracker, num_frames=NUM_FRAMES, with_masks=True, seed=0):
    """{disc: [its id in each frame where it is found]}.

    The first disc is in front. What shows less than a tenth of a disc is not found. The order of
    the objects is another in each frame.
    """
    generator = np.random.default_rng(seed)
    ids = defaultdict(list)
    for frame in range(num_frames):
        hidden, found = np.zeros((HEIGHT, WIDTH), bool), []
        for index, disc in enumerate(discs):
            if frame not in disc.frames:
                continue
            visible = disc.mask(frame) & ~hidden
            hidden |= visible
            if frame not in disc.missed and visible.sum() > 0.1 * 3.14 * disc.radius**2:
                found.append((index, visible))
        found = [found[i] for i in generator.permutation(len(found))]
        result = result_of([m for _, m in found], [discs[i].label for i, _ in found], with_masks)
        tracked = tracker.track(result)
        assert len(tracked) == len(found) == len(tracked.track_ids)
        for (index, _), identity in zip(found, tracked.track_ids.tolist()):
            ids[index].append(identity)
    return ids


def switches(ids):
    """How often the identity of an object changes, and how many objects share one."""
    changes = sum(a != b for series in ids.values() for a, b in itertools.pairwise(series))
    owners = defaultdict(set)
    for index, series in ids.items():
        for identity in series:
            owners[identity].add(index)
    return changes, sum(len(of) > 1 for of in owners.values())


SCENES = {
    "head-on, one behind the other": [Disc((10, 60), (5, 0)), Disc((150, 60), (-5, 0))],
    "head-on, slowly": [Disc((56, 60), (1.6, 0)), Disc((104, 60), (-1.6, 0))],
    "diagonals": [Disc((10, 10), (5, 3.5)), Disc((10, 110), (5, -3.5))],
    "overtaking": [Disc((10, 60), (5, 0)), Disc((50, 62), (2, 0))],
    "three at one place": [
        Disc((5, 60), (5, 0)),
        Disc((155, 60), (-5, 0)),
        Disc((80, -10), (0, 4.7)),
    ],
    "of several sizes": [Disc((10, 60), (5, 0), 18), Disc((150, 60), (-5, 0), 9)],
    "far in a frame": [Disc((5, 30), (11, 0), 6, frames=range(14)), Disc((80, 5), (0, 8), 6)],
    "missed while alone": [
        Disc((10, 40), (5, 0), missed=(4, 9, 10)),
        Disc((150, 80), (-5, 0), missed=(5, 6, 15, 16)),
    ],
    "missed before, in and after crossing": [
        Disc((10, 60), (5, 0), missed=(11, 14, 18, 19)),
        Disc((150, 60), (-5, 0), missed=(10, 11, 17)),
    ],
    "a frame without objects": [
        Disc((10, 40), (4, 1), missed=(12, 13)),
        Disc((150, 60), (-4, 1), missed=(12, 13)),
    ],
    "found late": [Disc((10, 60), (5, 0), missed=range(8)), Disc((10, 20), (4, 1))],
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "boxes"])
@pytest.mark.parametrize("scene", SCENES)
def test_tracker_keeps_identities(scene, with_masks, seed):
    ids = play(SCENES[scene], Tracker(), with_masks=with_masks, seed=seed)
    assert len(ids) == len(SCENES[scene]) and all(len(series) > 2 for series in ids.values())
    assert switches(ids) == (0, 0)


@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "boxes"])
def test_tracker_gives_new_objects_new_identities(with_masks):
    """One leaves to the right; one comes in there a frame later, and one where the first began."""
    discs = [
        Disc((100, 60), (6, 0), frames=range(12)),
        Disc((160 + 12 * 4, 60), (-4, 0), frames=range(12, 30)),
        Disc((-12 - 12 * 4, 60), (4, 0), frames=range(12, 30)),
    ]
    ids = play(discs, Tracker(), with_masks=with_masks)
    assert len(ids) == 3 and switches(ids) == (0, 0)


def test_tracker_gives_up_what_is_lost_for_long():
    """Two frames apart it is the same; four apart, with two allowed, another."""
    for missed, expected in ((range(5, 7), {1}), (range(5, 8), {1, 2})):
        tracker = Tracker(max_lost_frame_count=2)
        ids = play([Disc((80, 60), (0, 0), missed=missed)], tracker, num_frames=12)
        assert set(ids[0]) == expected


def test_tracker_keeps_classes_apart():
    """One class turns into another at the same place: another identity; back: the first again."""
    tracker, mask = Tracker(), Disc((80, 60), (0, 0)).mask(0)[None]
    ids = [tracker.track(result_of(mask, [c])).track_ids.tolist() for c in (0, 0, 1, 0, 1)]
    assert ids == [[1], [1], [2], [1], [2]]


def test_tracker_numbers_from_one_and_leaves_results_as_they_are():
    result = result_of([Disc((40, 60), (0, 0)).mask(0), Disc((99, 60), (0, 0)).mask(0)], [0, 0])
    tracked = Tracker().track(result)
    assert result.track_ids is None and tracked.track_ids.tolist() == [1, 2]
    assert tracked.track_ids.dtype == np.int64 and np.array_equal(tracked.masks, result.masks)


def test_tracker_of_empty_frames():
    tracker, empty = Tracker(), result_of(np.zeros((0, HEIGHT, WIDTH), bool), [])
    assert [len(tracker.track(empty).track_ids) for _ in range(3)] == [0, 0, 0]
    one = result_of(Disc((80, 60), (0, 0)).mask(0)[None], [0])
    assert [tracker.track(r).track_ids.tolist() for r in (one, empty, one)] == [[1], [], [1]]


def test_tracker_holds_no_more_than_what_it_may_find_again():
    """Of 200 objects, each in one frame and far from the last, those of the last 11 frames."""
    tracker = Tracker(max_lost_frame_count=10)
    for frame in range(200):
        mask = Disc((10 + 30 * (frame % 5), 20 + 40 * (frame % 3)), (0, 0), 6).mask(0)
        tracked = tracker.track(result_of(mask[None], [frame]))
        assert tracked.track_ids.tolist() == [frame + 1]
        assert len(tracker._motions) == len(tracker._prev_instances) <= 11


def test_tracker_follows_objects_of_a_large_frame():
    """Masks are compared at every 7th pixel of 4000, and small ones by their boxes."""
    tracker, ids = Tracker(), []
    for frame in range(6):
        boxes = np.array([[100 + 40 * frame, 50, 400 + 40 * frame, 350], [900, 9, 910, 19]])
        result = Result(
            image_size=(2000, 4000),
            boxes=boxes.astype(np.float32),
            scores=np.ones(2, np.float32),
            classes=np.zeros(2, np.int64),
            query_idx=np.arange(2),
            mask_scores=np.ones((2, 28, 28), np.float32),
            mask_boxes=boxes.astype(np.float32),
        )
        ids.append(tracker.track(result).track_ids.tolist())
    assert ids == [[1, 2]] * 6


def test_way_into_moves_each_axis_by_itself():
    """A part that sticks out to the left by 3, one as tall as the whole, and one that is wider."""
    whole = np.array([10.0, 10, 30, 40])
    for part, expected in (
        ([7, 15, 20, 30], [-3, 0]),
        ([12, 14, 18, 44], [0, 4]),
        ([12, 12, 28, 38], [0, 0]),
        ([5, 5, 40, 20], [0, -5]),
    ):
        assert _way_into(np.array(part, float), whole).tolist() == expected
