"""Files that people name as weights by mistake: the line says what each is."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from queryinst.checkpoint import QueryInstCheckpointer
from queryinst.checkpoint.files import read_checkpoint


class Layer(nn.Linear):
    pass


def tar(path):
    with tarfile.open(path, "w") as archive:
        content = b"x" * 100
        entry = tarfile.TarInfo("model.pth")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def script(path):
    torch.jit.save(torch.jit.trace(Layer(2, 2), torch.zeros(1, 2)), path)


def program(path):
    torch.export.save(torch.export.export(Layer(2, 2), (torch.zeros(1, 2),)), path)


def array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def arrays(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


def text(content):
    return lambda path: path.write_bytes(content)


# By hand after onnx.proto: field 1 (ir_version) is a number, field 2 (producer_name) a text.
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.8.0:\x05\x12\x03abc"


@pytest.mark.parametrize(
    "name, write, kind",
    [
        ("a.pt", script, "a TorchScript file, of torch.jit.save; name the checkpoint"),
        ("a.pt2", program, "a program of torch.export; name the checkpoint"),
        ("a.pth", program, "a program of torch.export"),
        ("a.onnx", text(ONNX), "an ONNX file; name the checkpoint that it was exported from"),
        ("a.pth", text(ONNX), "an ONNX file"),
        ("a.onnx", text(b"anything"), "an ONNX file"),
        ("a.pth", text(b"<!DOCTYPE html><html>"), "a web page"),
        ("a.pth", text(b"version https://git-lfs.github.com/spec/v1\n"), "a pointer of Git LFS"),
        ("a.xml", text(b"<?xml version='1.0'?><net name='x'>"), "XML, as of OpenVINO"),
        ("a.pth.gz", text(b"\x1f\x8b\x08\0\0"), "a compressed archive"),
        ("a.pth", tar, "a tar archive"),
        ("a.npy", array, "an array of NumPy"),
        ("a.npz", arrays, "an archive of NumPy's arrays"),
        ("a.png", lambda path: Image.new("RGB", (2, 2)).save(path), "an image"),
        ("a.yaml", text(b"MODEL:\n  MASK_ON: True\n"), "a configuration; name it with --config-f"),
        ("a.json", text(b'{"images": []}'), "JSON"),
    ],
)
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_read_checkpoint_says_what_a_file_is(tmp_path, name, write, kind, allow_pickle):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"^the weights is? ?.*{kind}") as caught:
        read_checkpoint(str(tmp_path / name), "the weights", allow_pickle=allow_pickle)
    assert "\n" not in str(caught.value) and "is not a checkpoint" in str(caught.value)


def test_load_says_that_a_folder_is_one(tmp_path, make_model):
    with pytest.raises(IsADirectoryError, match="is a folder; name the checkpoint file in it"):
        QueryInstCheckpointer(make_model().eval()).load(str(tmp_path))
