"""What a file is that is no checkpoint, for the message that refuses it."""

import re
from collections.abc import Sequence

HEAD_SIZE = 512  # bytes that `kind_of_file` looks at

_EXPORTED = "name the checkpoint that it was exported from"
# How files begin that people name by mistake.
_BEGINNINGS: Sequence[tuple[bytes, str]] = (
    # A protobuf whose first fields are ir_version and what comes next in onnx.ModelProto.
    (rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]", f"an ONNX file; {_EXPORTED}"),
    (rb"version https://git-lfs", "a pointer of Git LFS; git lfs pull gets the file itself"),
    (rb"\s*<(!doctype html|html)", "a web page; the address leads to a page, not to the file"),
    (rb"\s*<\?xml", f"XML, as of OpenVINO; {_EXPORTED}"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed archive; unpack it first"),
    (rb".{257}ustar", "a tar archive; unpack it first"),
    (rb"\x89HDF", "an HDF5 file, as of Keras"),
    (rb"\x93NUMPY", "an array of NumPy"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP", "an image"),
    (rb"\s*[{\[]", "JSON"),
)
_ENDINGS = {
    ".onnx": f"an ONNX file; {_EXPORTED}",
    ".yaml": "a configuration; name it with --config-file",
    ".yml": "a configuration; name it with --config-file",
}


def kind_of_file(path: str, head: bytes) -> str:
    """What a file that begins with `head` is, in words to go on after "is", or ""."""
    for pattern, kind in _BEGINNINGS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            return kind
    return next((kind for end, kind in _ENDINGS.items() if path.lower().endswith(end)), "")


def kind_of_archive(names: Sequence[str]) -> str:
    """What a zip archive of these entries is if torch.save did not write it, or ""."""
    parts = {part for name in names for part in name.split("/")[:2]}
    if "constants.pkl" in parts and "code" in parts:
        return f"a TorchScript file, of torch.jit.save; {_EXPORTED}"
    if parts & {"archive_format", "serialized_exported_program.json"}:
        return f"a program of torch.export; {_EXPORTED}"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy's arrays"
    return ""
