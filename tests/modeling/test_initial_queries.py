"""The learned boxes and features that enter the first stage."""

import pytest
import torch

from queryinst.modeling.initial_queries import InitialQueries
from queryinst.testing import tiny_cfg


@pytest.mark.parametrize("num_queries, embed_dim", [(1, 4), (5, 16)])
def test_every_box_is_the_whole_image_at_first(num_queries, embed_dim):
    queries = InitialQueries(num_queries=num_queries, embed_dim=embed_dim)
    whwh = torch.tensor([[96.0, 64.0, 96.0, 64.0], [50.0, 70.0, 50.0, 70.0]])
    boxes, query_feats = queries(whwh)
    assert boxes.tolist() == [[[0, 0, 96, 64]] * num_queries, [[0, 0, 50, 70]] * num_queries]
    assert query_feats.shape == (2, num_queries, embed_dim)
    assert torch.equal(query_feats[0], query_feats[1])


def test_features_are_standard_normal():
    torch.manual_seed(0)
    feats = InitialQueries(num_queries=100, embed_dim=64).query_feats
    assert abs(feats.mean().item()) < 0.03 and abs(feats.std().item() - 1) < 0.03


def test_boxes_are_center_and_size_of_the_image_neither_clamped_nor_clipped():
    queries = InitialQueries(num_queries=3, embed_dim=2).double()
    rows = [[0.5, 0.25, 0.2, 0.1], [0.0, 1.0, 1.0, 0.5], [1.5, -0.5, -0.2, 3.0]]
    queries.boxes_cxcywh_norm.data = torch.tensor(rows, dtype=torch.float64)
    sizes = [(200.0, 100.0), (30.0, 60.0)]
    boxes, _ = queries(torch.tensor([[w, h, w, h] for w, h in sizes]).double())
    for image, (width, height) in enumerate(sizes):
        for query, (cx, cy, w, h) in enumerate(rows):
            expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            expected = [x * side for x, side in zip(expected, (width, height, width, height))]
            assert boxes[image, query].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parameters_decide_on_the_dtype(dtype):
    queries = InitialQueries(num_queries=2, embed_dim=2).to(dtype)
    boxes, query_feats = queries(torch.tensor([[3, 2, 3, 2]]))
    assert boxes.dtype == query_feats.dtype == dtype


def test_both_parameters_learn_from_all_images():
    queries = InitialQueries(num_queries=2, embed_dim=3)
    boxes, query_feats = queries(torch.tensor([[4.0, 2.0, 4.0, 2.0], [8.0, 6.0, 8.0, 6.0]]))
    (boxes.sum() + query_feats.sum()).backward()
    # the sum of all corners is twice the centre, in pixels of both images
    assert queries.boxes_cxcywh_norm.grad.tolist() == [[2 * (4 + 8), 2 * (2 + 6), 0, 0]] * 2
    assert queries.query_feats.grad.tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("num_queries", [0, -1])
def test_there_is_a_query(num_queries):
    cfg = tiny_cfg(MODEL__QUERYINST__NUM_QUERIES=num_queries)
    with pytest.raises(ValueError, match=f"num_queries={num_queries} .*QUERYINST.NUM_QUERIES"):
        InitialQueries(cfg)
