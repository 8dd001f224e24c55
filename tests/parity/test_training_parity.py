"""A forward and a backward pass in training against MMDetection's, every tensor on the way."""

import goldens
import pytest

QUANTITIES = (
    "input",
    "fpn/",
    "pooled_box",
    "boxes",
    "class_logits",
    "query_feats",
    "mask_queries",
    "matches",
    "pooled_mask",
    "mask_targets",
    "mask_logits",
    "loss/",
    "grad/",
    "buffer/",
)


# A batch "none" without any instance is among the differences on purpose.
@pytest.mark.parametrize("batch", ["plain", "one_empty", "crowded"])
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_training_run_computes_what_mmdetection_computes(training_records, batch, quantity):
    name = f"training_{batch}"
    ours, theirs = goldens.sampled(training_records(batch), name), goldens.load(name)
    assert ours.keys() == theirs.keys()
    keys = [key for key in theirs if quantity_of(key) == quantity]
    assert keys
    goldens.check({key: ours[key] for key in keys}, {key: theirs[key] for key in keys})


def quantity_of(key: str) -> str:
    group, _, rest = key.partition("/")
    return rest if group.startswith("stage") else f"{group}/" if rest else group


@pytest.mark.parametrize("batch", ["plain", "one_empty", "crowded"])
def test_training_run_records_all_quantities(batch):
    assert {quantity_of(key) for key in goldens.load(f"training_{batch}")} == set(QUANTITIES)


def test_training_run_leaves_objects_without_a_query(training_records, batches):
    num_queries = goldens.load_json("narrow_shapes")["rpn_head.init_proposal_bboxes.weight"][0]
    counts = [len(objects.classes) for objects in batches["crowded"].objects]
    assert max(counts) > num_queries
    matches = training_records("crowded")["stage0/matches"]
    assert matches.shape[1] == sum(min(count, num_queries) for count in counts) < sum(counts)


def test_mask_targets_of_the_goldens_are_neither_empty_nor_full():
    targets = goldens.load("training_plain")["stage2/mask_targets"]
    assert 0.2 < targets.double().mean() < 0.9
