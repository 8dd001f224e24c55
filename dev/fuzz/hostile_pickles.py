"""Pickles that call, allocate, nest or lie, by name. @MARK@ is a folder that must not appear."""

import pickle
import struct


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _call(name: str, arguments: bytes) -> bytes:
    """A pickle of the call of module.name with one argument, or with a tuple `(...t`."""
    module, _, function = name.rpartition(".")
    tuple_ = arguments if arguments.startswith(b"(") else b"(" + arguments + b"t"
    return b"c" + f"{module}\n{function}\n".encode() + tuple_ + b"R"


def _int(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


def _doubling(levels: int) -> bytes:
    """A list of two references to a list of two references, and so on."""
    level = b"](K\x01K\x01eq\x00"
    for number in range(1, levels):
        level += b"](h" + bytes([number - 1]) + b"h" + bytes([number - 1]) + b"eq" + bytes([number])
    return level


_STORAGE = b"((" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu")
_SHAPES = {"small": (b"K\x02K\x02", b"K\x02K\x01"), "huge": (2 * _int(10**9), b"K\x00K\x00")}
_SHAPES |= {"vast": (2 * _int(2**62), 2 * _int(2**62)), "negative": (2 * _int(-5), b"K\x01K\x01")}


def _tensor(shape: str, offset: int = 0, numel: int = 4) -> bytes:
    """A tensor of torch.save's: (storage, offset, size, stride, requires_grad, hooks)."""
    size, stride = _SHAPES[shape]
    arguments = _STORAGE + _int(numel) + b"tQ" + _int(offset) + b"(" + size + b"t(" + stride + b"t"
    arguments += b"\x89" + _call("collections.OrderedDict", b"()"[:0] + b"(t") + b"t"
    return _call("torch._utils._rebuild_tensor_v2", arguments)


_ARRAY = "numpy.core.multiarray._reconstruct"
_NDARRAY, _DTYPE = b"cnumpy\nndarray\n", "numpy.dtype"
_EMPTY = _call(_ARRAY, b"(" + _NDARRAY + b"K\x00\x85C\x01bt")
_OBJECTS = _call(_DTYPE, b"(" + _text("O8") + b"\x89\x88t")
_FLOATS = _call(_DTYPE, b"(" + _text("f8") + b"\x89\x88t")
_MKDIR = _text("@MARK@")

BODIES = {  # by name, without PROTO and STOP
    "os.mkdir": _call("os.mkdir", _MKDIR),
    "posix.mkdir": _call("posix.mkdir", _MKDIR),
    "pathlib": _call("pathlib.Path.mkdir", _call("pathlib.Path", _MKDIR)),
    "eval": _call("builtins.eval", _text("__import__('os').mkdir('@MARK@')")),
    "exec": _call("__builtin__.exec", _text("import os; os.mkdir('@MARK@')")),
    "getattr": _call("builtins.getattr", b"(cos\nmkdir\n" + _text("__call__") + b"t"),
    "os.system": _call("os.system", _text("mkdir @MARK@")),
    "runpy": _call("runpy._run_code", b"(" + _text("import os") + b"}t"),
    "torch.load": _call("torch.serialization.load", _text("w.pth")),
    "torch.hub": _call("torch.hub.load", b"(" + _text("a/b") + _text("c") + b"t"),
    "numpy.load": _call("numpy.load", b"(" + _text("w.pth") + b"NI01\nt"),
    "own class": _call("queryinst.structures.WholeBatch", b"(K\x01K\x01t"),
    "stack global": _text("os") + _text("mkdir") + b"\x93" + b"(" + _MKDIR + b"tR",
    "instance": b"(" + _MKDIR + b"ios\nmkdir\n",
    "object": b"(cos\nmkdir\n" + _MKDIR + b"o",
    "new object": b"cos\nmkdir\n(" + _MKDIR + b"t\x81",
    "extension": b"\x82\x01",
    "bytearray": _call("builtins.bytearray", _int(10**11)),
    "bytearray in Python 2": _call("__builtin__.bytearray", _int(3 * 10**9)),
    "bytes": _call("builtins.bytes", _int(10**11)),
    "set of a set": _call("builtins.set", _call("builtins.set", b"(t")),
    "complex": _call("builtins.complex", _text("x")),
    "codec": _call("_codecs.encode", b"(" + _text("x") + _text("rot13") + b"t"),
    "zlib": _call("_codecs.encode", b"(" + _text("x" * 9) + _text("zlib") + b"t"),
    "ordered numbers": _call("collections.OrderedDict", _int(5)),
    "large array": _call(_ARRAY, b"(" + _NDARRAY + b"(" + 2 * _int(10**6) + b"tC\x01bt"),
    "vast array": _call(_ARRAY, b"(" + _NDARRAY + b"(" + 3 * _int(2**40) + b"tC\x01bt"),
    "array of a set": _call(_ARRAY, b"(cbuiltins\nset\nK\x00\x85C\x01bt"),
    "array of pointers": _EMPTY + b"(K\x01K\x01\x85" + _OBJECTS + b"\x89C\x08AAAAAAAAtb",
    "short array": _EMPTY + b"(K\x01" + _int(10**9) + b"\x85" + _FLOATS + b"\x89C\x08AAAAAAAAtb",
    "array without state": _EMPTY + b"Nb",
    "buffer": _call(
        "numpy.core.numeric._frombuffer", b"(C\x04AAAA" + _OBJECTS + b"K\x01\x85C\x01Ct"
    ),
    "scalar": _call("numpy.core.multiarray.scalar", b"(" + _OBJECTS + b"C\x08AAAAAAAAt"),
    "short scalar": _call("numpy.core.multiarray.scalar", b"(" + _FLOATS + b"C\x01At"),
    "dtype": _call(_DTYPE, b"(" + _text("V2000000000") + b"\x89\x88t"),
    "dtype of noise": _call(_DTYPE, b"(" + _text("(((((f8,") + b"\x89\x88t"),
    "small tensor": b"}" + _text("model") + b"}" + _text("a") + _tensor("small") + b"ss",
    "huge tensor": b"}" + _text("model") + b"}" + _text("a") + _tensor("huge") + b"ss",
    "vast tensor": _tensor("vast"),
    "negative tensor": _tensor("negative"),
    "tensor beyond its storage": _tensor("small", offset=10**12),
    "large storage": _tensor("small", numel=10**12),
    "negative storage": _tensor("small", numel=-1),
    "storage without a tensor": _STORAGE + b"K\x04tQ",
    "persistent id": b"K\x05Q",
    "text as persistent id": b"P5\n",
    "memo": b"]r\xff\xff\xff\x7f",
    "memo that is not there": b"h\x05",
    "long bytes": b"\x8e" + struct.pack("<Q", 2**62),
    "2 GB of bytes": b"B" + struct.pack("<I", 2**31 - 1) + b"x",
    "long text": b"\x8d" + struct.pack("<Q", 2**40) + b"x",
    "long integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "negative length": b"\x8b" + struct.pack("<i", -5),
    "digits": b"L" + b"9" * 200_000 + b"L\n",
    "frame": b"\x95" + struct.pack("<Q", 2**60),
    "deep list": b"]" * 50_000 + b"a" * 49_999,
    "deep tuple": b"N" + b"\x85" * 50_000,
    "deep dict": b"}" + b"K\x01}" * 20_000 + b"s" * 20_000,
    "marks": b"(" * 100_000,
    "doubling": _doubling(60),
    "doubling in the model": b"}" + _text("model") + _doubling(40) + b"s",
    "doubling in the meta": b"}" + _text("meta") + _doubling(40) + b"s",
    "list that holds itself": b"]q\x00h\x00a",
    "dict that holds itself": b"}q\x00" + _text("model") + b"h\x00s",
    "unhashable key": b"}]K\x01s",
    "unhashable item": b"\x8f(]\x90",
    "text that is no UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "nothing": b"",
    "None": b"N",
    "number": b"K\x05",
    "text": _text("model"),
    "empty dict": b"}",
    "list": b"]",
    "pop": b"0",
    "append to a number": b"K\x01K\x02a",
    "build a number": b"K\x01K\x02b",
    "call a number": b"K\x01(tR",
    "model of a number": b"}" + _text("model") + b"K\x05s",
    "model of a list": b"}" + _text("model") + b"]s",
    "number as name": b"}" + _text("model") + b"}K\x05K\x06ss",
    "None as name": b"}N" + _EMPTY + b"s",
    "no opcode": b"\xf0\xf1",
}


def pickle_of(name: str, mark: str) -> bytes:
    """The pickle of this name; its calls make the folder `mark`."""
    body = BODIES[name]
    for verb in ("@MARK@",):
        body = _replace_text(body, verb, mark)
    return b"\x80\x02" + body + b"."


def _replace_text(body: bytes, old: str, new: str) -> bytes:
    """Replace the placeholder in every text, whose length stands before it."""
    for text in ("import os; os.mkdir('@MARK@')", "__import__('os').mkdir('@MARK@')"):
        body = body.replace(_text(text), _text(text.replace(old, new)))
    return body.replace(_text("mkdir @MARK@"), _text(f"mkdir {new}")).replace(
        _text(old), _text(new)
    )
