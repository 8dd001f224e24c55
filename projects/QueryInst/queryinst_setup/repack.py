"""Makes a wheel of Detectron2 out of the copy that the package labgym redistributes.

Upstream publishes sources in its repository only, which many machines cannot reach. labgym 3.1.2,
GPL-3 as a whole, holds below LabGym/detectron2/ Detectron2's own Python files, which are under the
Apache licence; but for the package's name they equal upstream's of commit b7ff9466 (January 2024).
Only they are taken. The same input gives the same bytes: no times, sorted, not compressed.
"""

import base64
import hashlib
import os
import zipfile
from pathlib import Path

SOURCE_NAME = "labgym"
SOURCE_VERSION = "3.1.2"
SOURCE_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
SOURCE_FOLDER = "LabGym/detectron2/"

VERSION = f"0.6+{SOURCE_NAME}{SOURCE_VERSION}"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"

# What Detectron2's own setup asks for; shapely, timm and OpenCV it never declared.
REQUIREMENTS = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "black",
    "packaging",
)

# Files that do not work with today's Python and setuptools: {file: ((old text, new text), ...)}.
MENDINGS = {
    # setuptools 82 and newer have no pkg_resources.
    "detectron2/model_zoo/model_zoo.py": (
        ("import pkg_resources\n", "import importlib.resources\n"),
        (
            "    cfg_file = pkg_resources.resource_filename(\n"
            '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
            "    )\n",
            '    cfg_dir = importlib.resources.files("detectron2.model_zoo") / "configs"\n'
            "    cfg_file = str(cfg_dir / config_path)\n",
        ),
    ),
    # Sampling from a set is a TypeError since Python 3.11.
    "detectron2/data/common.py": (
        (
            "self._rng.sample(self._fallback_candidates, k=1)",
            "self._rng.sample(list(self._fallback_candidates), k=1)",
        ),
    ),
}

_CHANGED = "# Changed for the QueryInst project; see the NOTICE of this package.\n"

_METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2's Python files, taken from {SOURCE_NAME} {SOURCE_VERSION}
License: Apache-2.0
License-File: LICENSE
License-File: NOTICE
Requires-Python: >=3.9
""" + "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)

_WHEEL = """\
Wheel-Version: 1.0
Generator: queryinst_setup
Root-Is-Purelib: true
Tag: py3-none-any
"""

_NOTICE = f"""\
Detectron2
Copyright (c) Facebook, Inc. and its affiliates.
Licensed under the Apache License, Version 2.0; see LICENSE beside this file.

This package was not made by Detectron2's authors. QueryInst's tools/install_detectron2.py made it
out of the folder {SOURCE_FOLDER} of the package {SOURCE_NAME} {SOURCE_VERSION}
(sha256 {SOURCE_SHA256}),
which redistributes Detectron2's Python files and model zoo configurations. Nothing else of
{SOURCE_NAME} is in here. Detectron2's compiled operators (detectron2._C) are not in here either.

In all files the package's name is Detectron2's own again ("LabGym.detectron2" became "detectron2").
Beyond that these files were changed, so that they work with today's Python and setuptools:
""" + "".join(f"  {name}\n" for name in MENDINGS)


class RepackError(Exception):
    """The input is not what this module knows how to repack; the message is one line."""


def verify_sha256(path: Path, expected: str = SOURCE_SHA256) -> None:
    """Raise RepackError unless the file's sha256 is `expected`."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise RepackError(f"{path.name} has sha256 {digest}, expected {expected}; not used")


def repack(source: Path, target_dir: Path) -> Path:
    """Write the wheel of `source`'s Detectron2 into `target_dir`; give its path.

    Raises:
        RepackError: the folder is missing in `source`, or a text to be mended is.
    """
    files = _read_renamed(source)
    for name, replacements in MENDINGS.items():
        files[name] = _mend(name, files.get(name, b""), replacements)
    files |= {
        f"{DIST_INFO}/METADATA": _METADATA.encode(),
        f"{DIST_INFO}/WHEEL": _WHEEL.encode(),
        f"{DIST_INFO}/top_level.txt": b"detectron2\n",
        f"{DIST_INFO}/LICENSE": licence_text(),
        f"{DIST_INFO}/NOTICE": _NOTICE.encode(),
    }
    files[f"{DIST_INFO}/RECORD"] = _record(files)
    target_dir.mkdir(parents=True, exist_ok=True)
    target = target_dir / WHEEL_NAME
    # Complete or not there: an interrupted run must not leave half a wheel under the right name.
    partial = target.with_suffix(f".{os.getpid()}.part")
    try:
        _write(partial, files)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def licence_text() -> bytes:
    """The Apache licence 2.0: a built wheel has a copy in the package, a checkout at its top."""
    here = Path(__file__).resolve()
    candidates = [folder / "LICENSE" for folder in (here.parent, *here.parents[3:4])]
    for path in candidates:
        if path.is_file():
            return path.read_bytes()
    raise RepackError(f"the licence's text is in neither of {' and '.join(map(str, candidates))}")


def _read_renamed(source: Path) -> dict[str, bytes]:
    """Detectron2's files as {name in the new wheel: content}, with the package's own name again."""
    try:
        with zipfile.ZipFile(source) as archive:
            members = [i for i in archive.infolist() if i.filename.startswith(SOURCE_FOLDER)]
            contents = {i.filename: archive.read(i) for i in members if not i.is_dir()}
    except (OSError, zipfile.BadZipFile) as error:
        raise RepackError(f"cannot read {source}: {error}") from None
    if not contents:
        raise RepackError(f"{source.name} has no folder {SOURCE_FOLDER}")
    files = {}
    for name, content in contents.items():
        content = content.replace(b"LabGym.detectron2", b"detectron2")
        if b"LabGym" in content:
            raise RepackError(f"{name} names LabGym in a way that is not known here")
        files[name.removeprefix("LabGym/")] = content
    return files


def _mend(name: str, content: bytes, replacements) -> bytes:
    text = content.decode()
    for old, new in replacements:
        if text.count(old) != 1:
            raise RepackError(
                f"{name} holds the text {old.strip().splitlines()[0]!r} {text.count(old)} times, "
                "expected once; the copy cannot be mended"
            )
        text = text.replace(old, new)
    return (_CHANGED + text).encode()


def _record(files: dict[str, bytes]) -> bytes:
    lines = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(files[name])}\n")
    return ("".join(lines) + f"{DIST_INFO}/RECORD,,\n").encode()


def _write(target: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, whatever this runs on
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
