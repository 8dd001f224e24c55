"""The comparison itself: what is equal passes, and one changed value does not."""

import comparison
import goldens
import pytest
import torch


@pytest.fixture(scope="module")
def golden():
    return goldens.load("training_plain")


def changed(record, key, index, by):
    value = record[key].clone()
    value[index] = ~value[index] if value.dtype == torch.bool else value[index] + by
    return {**record, key: value}


def test_check_and_compare_take_a_record_for_itself(golden):
    goldens.check(golden, golden)
    assert all(row.largest == 0 for row in comparison.compare(golden, golden).values())


@pytest.mark.parametrize(
    ("key", "index", "by"),
    [
        ("fpn/p2", 7, 1e-7),
        ("stage2/boxes", 3, 1e-5),
        ("stage0/class_logits", 0, 1e-7),
        ("stage1/matches", (0, 0), 1),
        ("stage1/mask_targets", (0, 5, 5), None),
        ("stage1/mask_logits", -1, 1e-5),  # the norm
        ("loss/loss_mask_stage0", 0, 1e-7),
        ("grad/backbone.bottom_up.res3.0.conv1.weight", 11, 1e-6),
        ("buffer/mask_head.stages.0.convs.0.norm.running_var", 2, 1e-8),
        ("stage0/pooled_box", 1, float("nan")),
        ("stage1/pooled_box", -1, float("nan")),
    ],
)
def test_check_finds_one_changed_value(golden, key, index, by):
    with pytest.raises(AssertionError, match=key):
        goldens.check(changed(golden, key, index, by), golden)


def test_check_finds_a_missing_or_misshapen_tensor(golden):
    rest = {key: value for key, value in golden.items() if key != "loss/loss_cls_stage0"}
    with pytest.raises(AssertionError, match="loss_cls_stage0"):
        goldens.check(rest, golden)
    with pytest.raises(AssertionError, match="fpn/p2"):
        goldens.check({**golden, "fpn/p2": golden["fpn/p2"][:-1]}, golden)


def test_compare_tells_differences_by_quantity():
    theirs = {
        "stage0/boxes": torch.tensor([[3.0, 4.0]]),
        "stage1/boxes": torch.tensor([[0.0, 10.0]]),
        "stage1/matches": torch.tensor([[0, 1], [2, 3]]),
    }
    ours = {
        "stage0/boxes": torch.tensor([[3.0, 4.5]]),
        "stage1/boxes": torch.tensor([[0.0, 10.25]]),
        "stage1/matches": torch.tensor([[0, 2], [2, 4]]),
    }
    actual = comparison.compare(ours, theirs)
    assert list(actual) == ["boxes [px]", "matches"]
    assert actual["boxes [px]"].largest == 0.5
    assert actual["boxes [px]"].worst == "stage0/boxes"
    assert actual["boxes [px]"].worst_norm == pytest.approx(0.1)
    assert actual["boxes [px]"].relative_norm == pytest.approx((0.3125 / 125) ** 0.5)
    assert actual["matches"].largest == 2
    by_stage = comparison.compare(ours, theirs, by_stage=True)
    assert by_stage["boxes [px], stage 1"].largest == 0.25


def test_drop_without_area_clips_and_drops_by_image():
    boxes = [[-5.0, 2, 8, 9], [30, 2, 40, 9], [3, 3, 3, 9], [20, 0, 22, 9], [19.5, 1, 99, 99]]
    record = {
        "fpn/p2": torch.ones(2),
        "image0/topk": torch.tensor([4, 5, 7, 8, 9]),
        "image0/output_boxes": torch.tensor(boxes),
        "image0/output_masks": torch.arange(5)[:, None, None] == torch.arange(3),
    }
    result = comparison.drop_without_area(record, [(10, 20)])
    assert result["image0/output_topk"].tolist() == [4, 9]
    assert result["image0/output_boxes"].tolist() == [[0, 2, 8, 9], [19.5, 1, 20, 10]]
    assert result["image0/output_masks"].equal(record["image0/output_masks"][[0, 4]])
    assert result["image0/topk"].tolist() == [4, 5, 7, 8, 9] and "fpn/p2" in result
    assert "image0/output_topk" not in record and len(record["image0/output_boxes"]) == 5


def test_compare_raises_for_a_difference_that_is_no_number():
    theirs = {"stage0/boxes": torch.ones(2)}
    with pytest.raises(AssertionError, match="not a number"):
        comparison.compare({"stage0/boxes": torch.tensor([1.0, float("nan")])}, theirs)


def test_level_margin_is_relative():
    boxes = torch.tensor([[0.0, 0, 112 * 1.01, 112 * 1.01], [5, 5, 205, 205]])
    assert comparison.level_margin(boxes) == pytest.approx(0.00995, abs=1e-5)
