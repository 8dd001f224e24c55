"""Files that ask for more than there is: memory, time, or tensors that no model can load."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from queryinst.checkpoint import QueryInstCheckpointer, read_meta
from queryinst.checkpoint.files import read_checkpoint, write_checkpoint
from queryinst.checkpoint.limits import VARIABLE
from queryinst.convert import convert_checkpoint

REFUSED = "is not a checkpoint|is truncated|takes more than 1 MB|needs the Python object"
LATIN1 = b"c_codecs\nencode\n"


def one_line(path, match, read=None, **options):
    """The one line with which reading ends; it names the file and matches."""
    read = read or (lambda path: read_checkpoint(path, path, **options))
    with pytest.raises(ValueError, match=match) as caught:
        read(str(path))
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) < 700
    return text


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def zipped(path, content, change):
    """A file of torch.save, of which `change` gets and gives {name in the zip: bytes}."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in change(parts).items():
            archive.writestr(name, part)
    return path


def deflated(path, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


def test_read_checkpoint_refuses_a_zip_that_inflates(tmp_path):
    path = deflated(tmp_path / "w.pth", {"w": torch.zeros(20_000_000)})  # 80 MB in 80 kB
    assert path.stat().st_size < 100_000
    text = one_line(path, "takes more than 64.3.* MB, the limit for this file of 0.07")
    assert VARIABLE in text
    one_line(path, "takes more than", lambda path: convert_checkpoint(path, f"{path}.out.pth"))


def test_read_checkpoint_loads_more_where_a_limit_is_chosen(tmp_path, monkeypatch):
    path = str(deflated(tmp_path / "w.pth", {"w": torch.zeros(2000)}))
    one_line(path, "takes more than 0.005 MB", max_bytes=5000)
    assert read_checkpoint(path, path, max_bytes=100_000)["w"].shape == (2000,)
    monkeypatch.setenv(VARIABLE, "0.005")
    one_line(path, "takes more than 0.005 MB")
    monkeypatch.setenv(VARIABLE, "10")
    assert read_checkpoint(path, path)["w"].shape == (2000,)
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(ValueError, match=f"{VARIABLE} is 'much'; it must be a number of MB"):
        read_checkpoint(path, path)


def test_read_checkpoint_refuses_entries_that_overlap(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.arange(4.0), "v": torch.arange(4.0)})
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    entries = content[start:].split(b"PK\x01\x02")[1:]
    offset = entries[0][38:42]
    moved = [
        entry[:38] + offset + entry[42:] for entry in entries
    ]  # all begin where the first does
    path.write_bytes(content[:start] + b"".join(b"PK\x01\x02" + entry for entry in moved))
    one_line(path, "truncated or damaged .*overlap")


def test_read_checkpoint_refuses_two_entries_of_one_name(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.arange(4.0)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"}.")
    one_line(path, "two of its entries have one name")


def test_read_checkpoint_refuses_a_large_directory(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.pth", [torch.zeros(1) for _ in range(50)])
    monkeypatch.setattr("queryinst.checkpoint.torch_files._MAX_DIRECTORY", 500)
    one_line(path, "its directory of entries takes more than 0.02 MB", max_bytes=20_000)


def test_read_checkpoint_refuses_a_zip_without_objects(tmp_path):
    path = zipped(tmp_path / "w.pth", {}, lambda parts: {"notes.txt": b"hello"})
    one_line(path, "truncated or damaged .*no data.pkl")


BOMBS = {
    "bytes": b"cbuiltins\nbytearray\n(\x8a\x06\x00\x00\x00\x00\x00\x10tR.",  # bytearray(1 << 44)
    "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "binbytes8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "memo": b"\x80\x02Nr\xf0\xff\xff\x7f.",  # the C reader allocates 32 GB for this index
    "reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\x00\x00\x00\x70t"
    b"U\x01btR(K\x01J\x00\x00\x00\x70tb.",
    "ndarray": b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x70\x85\x85R.",
    "new ndarray": b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x70\x85\x85\x81.",
    "dtype": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x0b\x00\x00\x00V2000000000"
    b"\x85R\x85R.",
    "objects": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",
    "digits": b"\x80\x02I" + b"9" * 50_000 + b"\n.",
    "lists": b"\x80\x02(" + b"]" * 20_000 + b"l.",
    "marks": b"\x80\x02" + b"(" * 20_000 + b".",
    "sets": b"\x80\x04(" + b"\x8f" * 20_000 + b"l.",
    "function": b"\x80\x02" + LATIN1 + b"}X\x08\x00\x00\x00__code__Nsb.",
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_read_checkpoint_refuses_pickles_that_allocate(tmp_path, kind, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(b"\x80\x02" + BOMBS[kind] if BOMBS[kind][:1] != b"\x80" else BOMBS[kind])
    if kind in ("frame", "memo"):  # read as what they hold, without their promises
        assert read_checkpoint(str(path), "w") is None
    else:
        one_line(path, REFUSED, max_bytes=1_000_000)


@pytest.mark.parametrize("kind", sorted(BOMBS.keys() - {"frame", "memo"}))
def test_read_checkpoint_refuses_them_in_a_zip_too(tmp_path, kind):
    head = b"" if BOMBS[kind][:1] == b"\x80" else b"\x80\x02"
    path = zipped(
        tmp_path / "w.pth", {}, lambda parts: {**parts, "archive/data.pkl": head + BOMBS[kind]}
    )
    one_line(path, REFUSED, max_bytes=1_000_000)


@pytest.mark.parametrize("pickled", ["key", "set", "ordered"])
def test_read_checkpoint_refuses_keys_that_take_for_ever_to_hash(tmp_path, pickled):
    nested = ()
    for _ in range(100):
        nested = (nested, nested)
    body = pickle.dumps(nested, 2)[2:-1]
    content = {
        "key": b"}" + body + b"Ns.",
        "set": b"cbuiltins\nset\n]" + body + b"a\x85R.",
        "ordered": b"ccollections\nOrderedDict\n]" + body + b"N\x86a\x85R.",
    }[pickled]
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + content)
    one_line(tmp_path / "w.pkl", "is not a checkpoint .a key of type tuple")


def test_tensors_of_refuses_shared_containers_without_walking_them(tmp_path):
    nested = []
    for _ in range(100):
        nested = [nested] * 10
    path = saved(tmp_path / "w.pth", {"model": {"w": nested}})
    one_line(path, "first 'w' .list", load)


def load(path):
    QueryInstCheckpointer(torch.nn.Linear(2, 2)).load(path)


def special_tensors():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "sparse": torch.eye(3).to_sparse(),
            "sparse csr": torch.eye(3).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
            "on the meta device": torch.empty(2, 2, device="meta"),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "complex": torch.ones(2, dtype=torch.complex64),
            "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
            "of shape (1099511627776,) over 4 bytes": torch.ones(1).expand(1 << 40),
        }


@pytest.mark.parametrize("kind", special_tensors())
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_tensors_of_names_a_tensor_that_no_model_loads(tmp_path, kind, allow_pickle):
    state = {"fine.weight": torch.ones(2), "odd.weight": special_tensors()[kind]}
    path = saved(tmp_path / "w.pth", {"model": state})
    word = kind.replace(" csr", "").replace("(", r"\(").replace(")", r"\)")
    match = f"its tensor odd.weight is .*{word}"
    if allow_pickle:
        match = match.replace("conjugated", "complex")
        one_line(
            path,
            match,
            lambda path: convert_checkpoint(path, f"{path}.out.pth", allow_pickle=True),
        )
    else:
        one_line(path, match, load)


def test_read_checkpoint_loads_a_small_expanded_tensor(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.full((1,), 3.0).expand(10)})
    assert torch.equal(read_checkpoint(str(path), "w")["w"], torch.full((10,), 3.0))


@pytest.mark.parametrize("legacy", [False, True])
def test_read_checkpoint_reads_what_torch_load_reads(tmp_path, legacy):
    base = torch.arange(24.0).view(4, 6)
    dtypes = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool]
    dtypes += [torch.int64, torch.int32, torch.int16]
    content = {
        "views": OrderedDict(a=base, b=base[1:3, ::2], c=base.T, d=base[2, 3], e=base[:0]),
        "dtypes": [base.to(dtype) for dtype in dtypes],
        "parameter": torch.nn.Parameter(base.clone()),
        "plain": [1, -2.5, None, True, "text", b"\x00\xff", {3: (4, 5)}, {"s"}, bytearray(b"x")],
        "torch": [torch.Size([2, 3]), torch.device("cpu"), torch.float16],
        "numpy": [np.arange(3), np.float32(0.5), np.array(["text"])],
    }
    if not legacy:
        content["newer"] = [torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3).to(torch.uint16)]
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=not legacy)
    ours = read_checkpoint(str(path), "w")
    theirs = torch.load(path, weights_only=False)
    assert ours.keys() == theirs.keys() and ours["plain"] == theirs["plain"]
    assert ours["torch"] == theirs["torch"]
    tensors = [*zip(ours["views"].values(), theirs["views"].values())]
    tensors += zip(ours["dtypes"], theirs["dtypes"])
    tensors += [(ours["parameter"], theirs["parameter"])]
    tensors += zip(ours.get("newer", ()), theirs.get("newer", ()))
    for our, their in tensors:
        assert our.dtype == their.dtype and our.stride() == their.stride()
        assert torch.equal(our.double(), their.double())
    views = ours["views"]
    assert views["b"].untyped_storage().data_ptr() == views["a"].untyped_storage().data_ptr()
    for our, their in zip(ours["numpy"], theirs["numpy"]):
        np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize("old, new", [(b"K\x04t", b"K\x08t"), (b"K\x04\x85", b"K\x08\x85")])
def test_read_checkpoint_refuses_tensors_beyond_their_storage(tmp_path, old, new):
    def enlarge(parts):
        return {name: part.replace(old, new, 1) for name, part in parts.items()}

    path = zipped(tmp_path / "w.pth", {"w": torch.arange(4.0)}, enlarge)
    one_line(path, "truncated or damaged .*(16 bytes, not 32|larger than its storage)")


def test_read_checkpoint_refuses_a_legacy_storage_beyond_the_file(tmp_path):
    path = saved(tmp_path / "w.pth", {"w": torch.arange(4.0)}, _use_new_zipfile_serialization=False)
    huge = b"\x8a\x06" + (1 << 44).to_bytes(6, "little")
    path.write_bytes(path.read_bytes().replace(b"K\x04Ntq", huge + b"Ntq", 1))
    one_line(path, "takes more than|truncated or damaged")


def header(path, text, body=b""):
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(len(content).to_bytes(8, "little") + content + body)
    return path


def test_read_safetensors_refuses_a_long_header(tmp_path, monkeypatch):
    entry = '"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    long = "{" + entry + " " * 4_000_000 + "}"
    path = header(tmp_path / "w.safetensors", long)
    assert VARIABLE in one_line(path, "its header takes more than 4 MB, the limit")
    assert VARIABLE in one_line(path, "its header takes more than 4 MB", read_meta)
    path = header(tmp_path / "w.bin", long)  # the content tells what it is
    one_line(path, "its header takes more than 4 MB, the limit")
    monkeypatch.setenv(VARIABLE, "10")
    assert read_checkpoint(str(path), "w")["model"]["w"].shape == (0,)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"__pairs__": ' * 5000 + "1" + "}" * 5000,
        "1" + "0" * 5000,
        "[1",
        '{"__pairs__": [[{}, 1]]}',
        "3",
        '["config"]',
        '"text"',
        '{"format_version": 1' + "0" * 400 + "}",
        '{"format_version": 1, "dataset_id_map": [1, 2]}',
        '{"format_version": 1e999}',
        '{"format_version": NaN}',
    ],
)
def test_read_safetensors_refuses_odd_meta(tmp_path, text):
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, path, {"queryinst": text})
    for read in (load, read_meta):
        one_line(path, "truncated or damaged|its meta", read)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 62]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2] + [1] * 70, "data_offsets": [0, 8]},
        None,
        [[]],
    ],
)
def test_read_safetensors_refuses_odd_headers(tmp_path, entry):
    path = header(tmp_path / "w.safetensors", json.dumps({"weight": entry}), bytes(8))
    one_line(path, "truncated or damaged|does not fit", load)


def test_read_meta_reads_no_values(tmp_path):
    """So that a file of 2 GB takes no time; only its objects are compared with a checksum."""
    meta = {"format_version": 1, "thing_classes": ["ant"]}
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"w.{suffix}"
        write_checkpoint(str(path), {"model": {"w": torch.full((100,), 7.0)}, "meta": meta})
        content = path.read_bytes()
        path.write_bytes(content.replace(struct.pack("<f", 7.0), struct.pack("<f", 8.0)))
        assert read_meta(str(path)) == meta
        one_line(path, "truncated or damaged")
