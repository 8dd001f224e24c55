import tracemalloc
from functools import partial

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from scipy import ndimage

from queryinst.predict.slicing import detect_sliced, tiles
from queryinst_runtime.masks import encode_crop, encode_rle
from queryinst_runtime.results import Result


def find_components(images, largest=None, masks=True):
    """A perfect model: each connected patch is an object, of the class of its gray value.

    Args:
        largest: side of the largest images that it finds anything in.
    """
    return [_find(image[:, :, 0], largest, masks) for image in images]


def _find(image, largest, masks):
    found = []
    for value in sorted(
        set(np.unique(image)) - {0} if max(image.shape) <= (largest or 1e9) else ()
    ):
        labels, num = ndimage.label(image == value)
        found += [(int(value), labels == label) for label in range(1, num + 1)]
    boxes = []
    for _, mask in found:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return Result(
        image_size=image.shape,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(len(found), 0.9, np.float32),
        classes=np.array([value for value, _ in found], np.int64),
        query_idx=np.arange(len(found)),
        class_names=("nothing", "disc"),
        rles=[encode_rle(mask) for _, mask in found] if masks else None,
    )


def draw(*patches, height=100, width=160):
    """Patches as (value, left, top, right, bottom)."""
    image = np.zeros((height, width, 3), np.uint8)
    for value, left, top, right, bottom in patches:
        image[top:bottom, left:right] = value
    return image


def masks_of(result):
    return sorted((int(c), m.tobytes()) for c, m in zip(result.classes, result.masks))


def sliced(image, size=50, overlap=0.2, **options):
    return detect_sliced(partial(find_components, **options), image, size, overlap)


@pytest.mark.parametrize("height, width", [(100, 160), (51, 20), (50, 1000), (33, 77)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.75])
def test_tiles_cover_the_image_and_overlap(height, width, overlap):
    views = tiles(height, width, 50, overlap)
    covered = np.zeros((height, width), bool)
    for view in views:
        assert 0 <= view.left < view.right <= width and 0 <= view.top < view.bottom <= height
        assert view.right - view.left == min(50, width) and view.bottom - view.top == min(
            50, height
        )
        covered[view.top : view.bottom, view.left : view.right] = True
    assert covered.all() and len(set(views)) == len(views)
    lefts = sorted({view.left for view in views})
    assert all(b - a <= 50 * (1 - overlap) for a, b in zip(lefts, lefts[1:]))


def test_tiles_are_none_if_one_covers_the_image():
    assert tiles(50, 50, 50, 0.2) == [] and tiles(10, 20, 64, 0.0) == []
    image = draw((1, 2, 2, 8, 8), height=30, width=40)
    assert masks_of(sliced(image)) == masks_of(find_components([image])[0])


@pytest.mark.parametrize("size", [15, 0, -1, 64.0, True, "64", None])
def test_tiles_refuse_a_size(size):
    with pytest.raises(ValueError, match="^slice .* must be a whole number of at least 16"):
        tiles(100, 100, size, 0.2)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan"), "0.2", None])
def test_tiles_refuse_an_overlap(overlap):
    with pytest.raises(ValueError, match="^overlap .* must be a number in"):
        tiles(100, 100, 64, overlap)


# The tiles of 50 with an overlap of 0.2 begin at 0, 40, 80, 110 from the left and at 0, 40, 50.
SMALL = (1, 5, 5, 12, 11)
IN_THE_OVERLAP = (1, 42, 10, 48, 18)
ACROSS = (1, 30, 60, 60, 75)
NEIGHBOURS = ((1, 36, 20, 44, 32), (1, 46, 20, 54, 32))
BAR = (1, 3, 44, 157, 48)
LARGE = (1, 10, 10, 150, 90)


@pytest.mark.parametrize("with_whole", [True, False])
@pytest.mark.parametrize(
    "patches",
    [
        (SMALL,),
        (IN_THE_OVERLAP,),
        (ACROSS,),
        NEIGHBOURS,
        (BAR,),  # in all columns of tiles and two rows
        (LARGE,),  # covers some tiles
        (SMALL, IN_THE_OVERLAP, ACROSS, *NEIGHBOURS),
        ((1, 30, 60, 45, 75), (2, 45, 60, 60, 75)),  # of two classes, which touch
        (),
    ],
)
def test_each_object_comes_out_once_and_whole(patches, with_whole):
    image = draw(*patches)
    result = sliced(image, largest=None if with_whole else 50)
    truth = find_components([image])[0]
    assert masks_of(result) == masks_of(truth) and len(result) == len(patches)
    assert sorted(result.boxes.tolist()) == sorted(truth.boxes.tolist())
    assert result.image_size == (100, 160) and result.class_names == ("nothing", "disc")


def test_pieces_are_joined_only_where_no_view_has_the_whole():
    image = draw(ACROSS)
    assert sliced(image).query_idx.tolist() == [0]
    assert sliced(image, largest=50).query_idx.tolist() == [-1]
    assert sliced(draw(IN_THE_OVERLAP), largest=50).query_idx.tolist() == [0]


def test_a_whole_object_wins_and_takes_the_highest_score():
    image = draw((1, 30, 60, 48, 75))  # whole in the first tile, cut at 40 by the second

    def detect(images):
        (result,) = find_components(images, largest=50)
        result.scores[:] = result.boxes[:, 2:].max(1, initial=0) / 100  # 0.48 whole, 0.08 cut
        return [result]

    result = detect_sliced(detect, image, 50, 0.2)
    assert masks_of(result) == masks_of(find_components([image])[0])
    assert result.scores.max() == np.float32(0.48) and len(result) == 1


def test_of_the_whole_image_only_what_is_larger_than_the_overlap_counts():
    image = draw(SMALL, ACROSS)

    def detect(images):  # the tiles are blind
        return [_find(x[:, :, 0] if len(x) > 50 else x[:, :, 0] * 0, None, True) for x in images]

    result = detect_sliced(detect, image, 50, 0.2)
    assert masks_of(result) == masks_of(find_components([draw(ACROSS)])[0])


def test_results_come_by_falling_score_in_batches_of_tiles():
    image = draw(SMALL, ACROSS, *NEIGHBOURS)
    sizes = []

    def detect(images):
        sizes.append(len(images))
        results = find_components(images, largest=50)
        for result in results:
            result.scores = np.linspace(0.9, 0.5, len(result), dtype=np.float32)
        return results

    result = detect_sliced(detect, image, 50, 0.2, batch=5)
    assert sizes == [1, 5, 5, 2]
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert masks_of(result) == masks_of(find_components([image])[0])


def test_a_box_detectors_boxes_are_merged():
    result = sliced(draw(ACROSS, SMALL), largest=50, masks=False)
    assert not result.has_masks
    assert sorted(result.boxes.tolist()) == [[5, 5, 12, 11], [30, 60, 60, 75]]


def test_masks_of_large_images_take_little_memory():
    """100 masks of 16 megapixels would take 1.6 GB."""
    side, num = 4000, 100
    corners = np.random.default_rng(0).integers(0, side - 600, (num, 2)).astype(np.float32)

    def detect(images):
        height, width = images[0].shape[:2]
        if (height, width) != (side, side):
            return [_find(images[0][:, :, 0], None, True)]
        boxes = np.concatenate([corners, corners + 600], 1)
        return [
            Result(
                image_size=(side, side),
                boxes=boxes,
                scores=np.ones(num, np.float32),
                classes=np.arange(num),
                query_idx=np.arange(num),
                mask_scores=np.ones((num, 28, 28), np.float32),
                mask_boxes=boxes,
            )
        ]

    image = np.zeros((side, side, 3), np.uint8)
    tracemalloc.start()
    result = detect_sliced(detect, image, 2000, 0.2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result) == num and peak < 100e6


@pytest.mark.parametrize(
    "top, left, h, w", [(0, 0, 9, 7), (2, 3, 4, 2), (0, 2, 9, 3), (5, 6, 4, 1)]
)
@pytest.mark.parametrize("density", [0.0, 0.5, 0.95, 1.0])
def test_encode_crop_gives_the_code_of_the_whole_mask(top, left, h, w, density):
    crop = np.random.default_rng(0).random((h, w)) < density
    whole = np.zeros((9, 7), bool)
    whole[top : top + h, left : left + w] = crop
    rle = encode_crop(top, left, crop, 9, 7)
    expected = mask_utils.encode(np.asfortranarray(whole.astype(np.uint8)))
    assert rle == {"size": [9, 7], "counts": expected["counts"].decode()}
