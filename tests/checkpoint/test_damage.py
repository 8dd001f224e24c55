"""Damaged values: never other weights in silence; and values that are not finite."""

import random

import pytest
import torch

from queryinst.checkpoint import QueryInstCheckpointer, read_meta
from queryinst.checkpoint.files import read_checkpoint, write_checkpoint
from queryinst.convert import convert_checkpoint

META = {"format_version": 1, "config": "", "thing_classes": ["ant"], "kind": "train"}


def make_linear(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(10, 5)


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_load_refuses_or_ignores_a_flipped_bit(tmp_path, suffix):
    """60 random bits, and each bit of the first and last value."""
    path, source = tmp_path / f"w.{suffix}", make_linear(1)
    write_checkpoint(str(path), {"model": source.state_dict(), "meta": META})
    content, draw = path.read_bytes(), random.Random(0)
    bits = [draw.randrange(8 * len(content)) for _ in range(60)]
    weight = content.index(source.weight.detach().numpy().tobytes())
    bits += range(8 * weight, 8 * weight + 32)
    bits += range(8 * weight + 8 * 4 * 49, 8 * weight + 8 * 4 * 50)
    refused = 0
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        model = make_linear(2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            rest = QueryInstCheckpointer(model).load(str(path))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
            expected = before
        else:
            expected = source.state_dict()
            assert rest.get("meta", META) == META
        assert all(torch.equal(v, expected[n]) for n, v in model.state_dict().items()), bit
    assert refused >= 64


def test_convert_checkpoint_refuses_a_flipped_bit_with_allow_pickle(tmp_path):
    path, state = tmp_path / "w.pth", make_linear(1).state_dict()
    torch.save(state, path)
    content = path.read_bytes()
    weight = content.index(state["weight"].numpy().tobytes())
    path.write_bytes(flipped(content, 8 * weight + 3))
    with pytest.raises(ValueError, match="w.pth is truncated or damaged .*CRC"):
        convert_checkpoint(str(path), str(tmp_path / "out.pth"), allow_pickle=True)


def test_read_safetensors_accepts_files_of_others_without_a_digest(tmp_path):
    from safetensors.torch import load_file, save_file

    save_file({"a": torch.ones(2)}, tmp_path / "theirs.safetensors")
    assert torch.equal(
        read_checkpoint(str(tmp_path / "theirs.safetensors"), "w")["model"]["a"], torch.ones(2)
    )
    write_checkpoint(
        str(tmp_path / "ours.safetensors"), {"model": {"a": torch.ones(2)}, "meta": META}
    )
    assert torch.equal(load_file(tmp_path / "ours.safetensors")["a"], torch.ones(2))
    assert read_meta(str(tmp_path / "ours.safetensors")) == META


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "name", ["cascade.stages.1.ffn_in.weight", "mask_head.stages.0.convs.0.norm.running_var"]
)
def test_load_refuses_a_value_that_is_not_finite(
    make_model, snapshot, tmp_path, value, training, name
):
    state = make_model(1).state_dict()
    name = next(
        key
        for key in state
        if key.endswith(name.rpartition(".")[2]) and key.startswith(name.split(".")[0])
    )
    state[name].view(-1)[-1] = value
    torch.save({"model": state}, tmp_path / "w.pth")
    model = make_model(2).train(training)
    changed = snapshot(model)
    with pytest.raises(
        ValueError, match=f"w.pth is not loaded: its tensor {name} has values that"
    ) as error:
        QueryInstCheckpointer(model).load(str(tmp_path / "w.pth"))
    assert "\n" not in str(error.value) and not changed()


def test_load_accepts_values_whose_sum_overflows(tmp_path):
    model, other = make_linear(1), make_linear(2)
    torch.nn.init.constant_(model.weight, 3e38)
    QueryInstCheckpointer(model, str(tmp_path)).save("w")
    QueryInstCheckpointer(other).load(str(tmp_path / "w.pth"))
    assert torch.equal(other.weight, model.weight)


def test_save_refuses_what_is_not_finite_and_keeps_the_good_checkpoint(tmp_path):
    model = make_linear()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 10)).sum().backward()
    optimizer.step()
    saver = QueryInstCheckpointer(model, str(tmp_path), optimizer=optimizer)
    saver.save("model_0000001")
    good = (tmp_path / "model_0000001.pth").read_bytes()
    moments = optimizer.state[model.weight]["exp_avg_sq"]
    for tensor, name in (
        (moments, r"optimizer.state.\d.exp_avg_sq"),
        (model.bias.data, "model.bias"),
    ):
        tensor.view(-1)[0] = float("inf")
        for file in ("model_0000001", "model_0000002", "model_final"):
            match = f"{file}.pth is not written: its tensor {name} has values"
            with pytest.raises(FloatingPointError, match=match) as error:
                saver.save(file)
            assert "\n" not in str(error.value)
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
        assert (tmp_path / "model_0000001.pth").read_bytes() == good
        assert len(list(tmp_path.iterdir())) == 2
        tensor.view(-1)[0] = 0.0


def test_save_removes_what_a_killed_run_left(tmp_path):
    for name in ("model_0000007.pth.tmp", "model_final.pth.tmp", "notes.tmp", "model_0000003.pth"):
        (tmp_path / name).write_bytes(b"half")
    QueryInstCheckpointer(make_linear(), str(tmp_path)).save("model_0000009")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"notes.tmp", "model_0000003.pth", "model_0000009.pth", "last_checkpoint"}


def test_convert_checkpoint_refuses_a_value_that_is_not_finite(make_model, tmp_path):
    state = make_model(1).state_dict()
    state["cascade.stages.0.ffn_in.bias"][0] = float("nan")
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match="w.pth is not loaded: its tensor cascade.stages.0.ffn_in.bias"
    ):
        convert_checkpoint(str(tmp_path / "w.pth"), str(tmp_path / "out.pth"))
    assert not (tmp_path / "out.pth").exists()
