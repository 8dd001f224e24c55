from pathlib import Path

import pytest

from queryinst.predict.inputs import Source, find_sources
from queryinst.predict.naming import check_targets, safe_name, targets_of, unique_stems


def stems_of(*names):
    return list(unique_stems([Source(name) for name in names]).values())


def test_unique_stems_are_the_names_where_they_can_be():
    assert stems_of("x/a.jpg", "-", "http://h/p/b%20c.png?q=1#d", "d") == ["a", "stdin", "b c", "d"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["x/a.jpg", "y/a.jpg", "z/A.png"], ["a", "a-2", "A-3"]),
        (["x/a.jpg", "y/a.jpg", "x/a-2.jpg"], ["a", "a-2", "a-2-2"]),
        (["crops.png", "MASKS.png"], ["crops-2", "MASKS-2"]),
        (["http://h/", ".hidden", "...png"], ["image", "hidden", "png"]),
    ],
)
def test_unique_stems_differ(names, expected):
    found = stems_of(*names)
    assert len({stem.lower() for stem in found}) == len(names)
    assert found == expected


def test_unique_stems_are_short_enough_for_a_file_system(tmp_path):
    for stem in stems_of("é" * 120 + ".png", "é" * 120 + ".jpg", "x" * 250):
        (tmp_path / f"{stem}-000000-001-{safe_name('ü' * 200, 60)}.png").touch()


@pytest.mark.parametrize("text", ["a/b", "a\\b", "..", "a*b?", "a\nb", 'x"<>|:'])
def test_safe_name_has_no_special_characters(text):
    assert not set(safe_name(text, 60)) & set('/\\*?\n"<>|:') and safe_name(text, 60) != ".."


def test_check_targets_finds_files_of_before_and_inputs(tmp_path):
    video, image = Source("clip.mp4", True), Source(str(tmp_path / "a.png"))
    targets = targets_of({video: "clip", image: "a"}, tmp_path, ".png")
    assert targets == [tmp_path / "clip", tmp_path / "a.png"]
    assert check_targets(targets, [video], overwrite=False) == []
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "notes.txt").touch()
    assert check_targets(targets, [video], overwrite=False) == []
    (tmp_path / "clip" / "000000.png").touch()
    with pytest.raises(FileExistsError, match="000000.png is there already; add --overwrite"):
        check_targets(targets, [video], overwrite=False)
    assert check_targets(targets, [video], overwrite=True) == [tmp_path / "clip" / "000000.png"]
    with pytest.raises(ValueError, match="would replace the input"):
        check_targets(targets, [image], overwrite=True)
    inside = Source(str(tmp_path / "clip" / "000000.png"))
    with pytest.raises(ValueError, match="would replace the input"):
        check_targets(targets, [inside], overwrite=True)


def test_find_sources_knows_kinds_and_keeps_the_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.PNG", "d/a.jpg", "d/x.txt", "d/c.MP4", "p[1].png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    inputs = ["p[1].png", "d", "d/*.jpg", "-", "HTTP://h/v.webm?x=1", "http://h/i", "none", "-"]
    found = [(source.name, source.is_video) for source in find_sources(inputs)]
    assert found == [
        ("p[1].png", False),
        *(("d/a.jpg", False), ("d/b.PNG", False), ("d/c.MP4", True), ("-", False)),
        *(("HTTP://h/v.webm?x=1", True), ("http://h/i", False), ("none", False)),
    ]
