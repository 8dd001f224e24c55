"""Detectron2's wheel out of a made-up labgym wheel: names, mendings, digests, reproducibility."""

import base64
import hashlib
import subprocess
import sys
import zipfile

import pytest

from queryinst_setup import repack

MODEL_ZOO = b"""# Copyright
import os
import pkg_resources
from LabGym.detectron2.config import get_cfg

def get_config_file(config_path):
    cfg_file = pkg_resources.resource_filename(
        "LabGym.detectron2.model_zoo", os.path.join("configs", config_path)
    )
    return cfg_file
"""
COMMON = b"""class MapDataset:
    def __getitem__(self, idx):
        cur_idx = self._rng.sample(self._fallback_candidates, k=1)[0]
"""
FILES = {
    "LabGym/__init__.py": b"not ours",
    "LabGym/detectron2/__init__.py": b'__version__ = "0.6"\n',
    "LabGym/detectron2/config.py": b"import LabGym.detectron2.data\nget_cfg = dict\n",
    "LabGym/detectron2/data/__init__.py": b"",
    "LabGym/detectron2/data/common.py": COMMON,
    "LabGym/detectron2/model_zoo/__init__.py": b"from .model_zoo import get_config_file\n",
    "LabGym/detectron2/model_zoo/model_zoo.py": MODEL_ZOO,
    "LabGym/detectron2/model_zoo/configs/Base.yaml": b"VERSION: 2\n",
    "labgym-3.1.2.dist-info/METADATA": b"Name: labgym\n",
}


def write_source(path, **changes):
    """A wheel like labgym's; `changes` replace files below LabGym/detectron2/ (None: left out)."""
    files = dict(FILES)
    for name, content in changes.items():
        files[f"LabGym/detectron2/{name.replace('__', '/')}.py"] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.fixture
def wheel(tmp_path):
    return repack.repack(write_source(tmp_path / "labgym.whl"), tmp_path / "out")


def test_repack_gives_the_same_bytes_twice(tmp_path, wheel):
    source = write_source(tmp_path / "elsewhere.whl")
    again = repack.repack(source, tmp_path / "again")
    assert again.name == "detectron2-0.6+labgym3.1.2-py3-none-any.whl"
    assert again.read_bytes() == wheel.read_bytes()
    assert [path.name for path in wheel.parent.iterdir()] == [wheel.name]


def test_repack_keeps_only_detectron2_under_its_own_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        contents = {name: archive.read(name) for name in names}
    assert {name.split("/")[0] for name in names} == {"detectron2", repack.DIST_INFO}
    assert len([n for n in names if n.startswith("detectron2/")]) == len(FILES) - 2
    code = {name: content for name, content in contents.items() if name.startswith("detectron2/")}
    assert not any(b"LabGym" in content for content in code.values())
    assert contents["detectron2/config.py"].startswith(b"import detectron2.data\n")


def test_repack_has_a_zoo_that_works_without_pkg_resources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        zoo = archive.read("detectron2/model_zoo/model_zoo.py").decode()
        common = archive.read("detectron2/data/common.py").decode()
    assert "pkg_resources" not in zoo
    compile(zoo, "model_zoo.py", "exec")
    assert "sample(list(self._fallback_candidates), k=1)" in common
    assert zoo.startswith("# Changed for the QueryInst project")


def test_repack_records_every_file_with_its_digest(wheel):
    with zipfile.ZipFile(wheel) as archive:
        rows = [
            row.rsplit(",", 2)
            for row in archive.read(f"{repack.DIST_INFO}/RECORD").decode().splitlines()
        ]
        assert [row[0] for row in rows[:-1]] == sorted(set(archive.namelist()) - {rows[-1][0]})
        assert rows[-1] == [f"{repack.DIST_INFO}/RECORD", "", ""]
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
            assert digest == "sha256=" + expected.rstrip("=")
            assert int(size) == len(content)


def test_repack_says_whose_it_is_and_what_was_changed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(f"{repack.DIST_INFO}/LICENSE").decode()
        notice = archive.read(f"{repack.DIST_INFO}/NOTICE").decode()
        metadata = archive.read(f"{repack.DIST_INFO}/METADATA").decode().splitlines()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    for text in ("labgym 3.1.2", repack.SOURCE_SHA256, *repack.MENDINGS):
        assert text in notice
    assert "Requires-Dist: fvcore>=0.1.5,<0.1.6" in metadata
    assert not any(line.startswith("Requires-Dist: torch") for line in metadata)


@pytest.mark.parametrize("name", ["model_zoo__model_zoo", "data__common"])
@pytest.mark.parametrize("content", [b"something else\n", None])
def test_repack_refuses_files_without_the_text_to_mend(tmp_path, name, content):
    source = write_source(tmp_path / "labgym.whl", **{name: content})
    with pytest.raises(repack.RepackError, match="cannot be mended"):
        repack.repack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_repack_refuses_an_unknown_mention_of_labgym(tmp_path):
    source = write_source(tmp_path / "labgym.whl", config=b"from LabGym import detectron2\n")
    with pytest.raises(repack.RepackError, match="config.py names LabGym"):
        repack.repack(source, tmp_path / "out")


def test_repack_refuses_a_wheel_without_detectron2(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(repack.RepackError, match="no folder LabGym/detectron2/"):
        repack.repack(tmp_path / "other.whl", tmp_path)


def test_repack_refuses_a_file_that_is_no_wheel(tmp_path):
    (tmp_path / "broken.whl").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(repack.RepackError, match="cannot read"):
        repack.repack(tmp_path / "broken.whl", tmp_path)


def test_repack_refuses_a_wrong_digest(tmp_path):
    path = tmp_path / "labgym.whl"
    path.write_bytes(b"abc")
    repack.verify_sha256(path, hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(repack.RepackError, match=f"ba7816bf.*expected {repack.SOURCE_SHA256}"):
        repack.verify_sha256(path)


def test_repack_makes_what_pip_installs(tmp_path, wheel):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    target = ["--target", str(tmp_path / "site")]
    subprocess.run([*pip, "--no-deps", "--no-index", *target, str(wheel)], check=True)
    program = "import detectron2; print(detectron2.__file__, detectron2.__version__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "detectron2" / "__init__.py"), "0.6"]
