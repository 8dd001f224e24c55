import errno
import os
from pathlib import Path

import pytest

from queryinst.own_data.folders import MARK, check_target, new_folder


def test_new_folder_replaces_what_a_link_leads_to(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with new_folder(str(tmp_path / "b")) as folder:
        (folder / "new").touch()
    assert (tmp_path / "b").is_symlink() and sorted(os.listdir(tmp_path / "a")) == [MARK, "new"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_new_folder_leaves_what_is_there_if_it_is_interrupted(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    rename = Path.rename

    def interrupted(path, target):
        if path.suffix == ".part":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with new_folder(str(tmp_path / "a")):
            pass
    assert [str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*")] == ["a", "a/old"]


def test_new_folder_names_itself_if_the_disk_is_full(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*/a \(No space left on device\); nothing"):
        with new_folder(str(tmp_path / "a")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)


def test_new_folder_takes_the_place_of_what_is_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with new_folder(str(tmp_path / "a")) as folder:
        (folder / "new").touch()
        assert (tmp_path / "a" / "old").exists()
    found = sorted(str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*"))
    assert found == ["a", f"a/{MARK}", "a/new"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_check_target_protects_what_is_there(tmp_path):
    target = tmp_path / "a"
    check_target(str(target), [], overwrite=False)
    target.mkdir()
    check_target(str(target), [], overwrite=False)
    with new_folder(str(target)) as folder:
        (folder / "birds").mkdir()
    with pytest.raises(FileExistsError, match="is there already; add --overwrite"):
        check_target(str(target), [], overwrite=False)
    check_target(str(target), [str(tmp_path / "b")], overwrite=True)
    with pytest.raises(ValueError, match="would replace"):
        check_target(str(target), [str(target / "birds")], overwrite=True)
    with pytest.raises(ValueError, match="would replace"):
        check_target(str(target), [str(target)], overwrite=True)
    (target / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="a has notes.txt, which queryinst data did not"):
        check_target(str(target), [], overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        check_target(str(target / MARK), [], overwrite=True)


def test_check_target_replaces_no_folder_of_others(tmp_path):
    (tmp_path / "photos" / "images").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="photos was not written by queryinst data"):
        check_target(str(tmp_path / "photos"), [], overwrite=True)
