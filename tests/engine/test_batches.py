import pytest
import torch

from queryinst.engine.batches import LastBatch
from queryinst.engine.nonfinite import check_finite
from queryinst.testing import random_batch


class Echo(torch.nn.Module):
    def forward(self, batched_inputs):
        return len(batched_inputs)


@pytest.fixture
def echo():
    return Echo()


def test_the_last_batch_is_described_by_files_sizes_and_instances(echo):
    last = LastBatch(echo)
    assert echo(random_batch((2, 0), height=32, width=48)) == 2
    assert last.describe() == "images random_0.png, random_1.png (32x48, 32x48 pixels, 2 instances)"
    assert (
        last.name_images("stage 1, image 1: image 7") == "stage 1, image 1 (random_1.png): image 7"
    )


def test_a_batch_without_names_and_instances_is_described_too(echo):
    last = LastBatch(echo)
    echo([{"image": torch.zeros(3, 4, 5)}])
    assert last.describe() == "images ? (4x5 pixels, 0 instances)"


def test_what_is_forgotten_or_removed_is_not_described(echo):
    last = LastBatch(echo)
    echo(random_batch((1,)))
    last.forget()
    assert "random" not in last.describe()
    last.remove()
    echo(random_batch((1,)))
    assert "random" not in last.describe()


def test_finite_losses_pass():
    check_finite({"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(-2.0, dtype=torch.float64)})


def test_losses_that_are_not_finite_are_named():
    losses = {f"loss_{name}": torch.tensor(1.0) for name in "abcdef"}
    losses["loss_b"] = torch.tensor(float("nan"))
    with pytest.raises(FloatingPointError, match="^loss_b is nan$"):
        check_finite(losses)
    for name in "cdef":
        losses[f"loss_{name}"] = torch.tensor(float("-inf"))
    with pytest.raises(FloatingPointError) as error:
        check_finite(losses)
    assert str(error.value) == (
        "loss_b is nan, loss_c is -inf, loss_d is -inf and 2 more are not finite"
    )
