"""Reading JSON: what is wrong with a file is one line that names the file and the place."""

import json

import pytest

from queryinst.json_files import parse_json, read_json

DEEP = 100_000


@pytest.mark.parametrize(
    "text, message",
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,}', "line 1, column 9"),
        (b'{"a":\n [1, 2}', "line 2, column 7"),
        (b'{"a": 1} {"a": 2}', "line 1, column 10: Extra data"),
        (b"\xef\xbb\xbf{}", "line 1, column 1: Unexpected UTF-8 BOM"),
        (b"{}\xff", "not UTF-8 text"),
        ("{}".encode("utf-16"), "not UTF-8 text"),
        (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"b": {"a": 1, "c": 2, "a": 3}}', "the key 'a' more than once"),
    ],
)
def test_read_json_names_the_file_and_the_place(tmp_path, text, message):
    path = tmp_path / "some.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(str(path))
    line = str(caught.value)
    assert line.startswith(f"{path} is not valid JSON: ") and "\n" not in line and len(line) < 300


def test_read_json_refuses_another_kind(tmp_path):
    path = tmp_path / "some.json"
    path.write_text("[1]")
    assert read_json(str(path)) == read_json(str(path), list) == [1]
    with pytest.raises(ValueError, match="mine holds a list, not an object"):
        read_json(str(path), dict, "mine")
    path.write_text("{}")
    with pytest.raises(ValueError, match="some.json holds a dict, not a list"):
        read_json(str(path), list)


def test_read_json_leaves_a_missing_file_to_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.json"):
        read_json(str(tmp_path / "gone.json"))


def test_parse_json_gives_what_json_gives():
    text = '{"a": [1, 2.5, "\\u00e9", null, true, {"b": {}}], "c": 1e400}'
    assert parse_json(text, "x") == json.loads(text)
    assert parse_json('{"loss": NaN}', "x")["loss"] != 0  # Detectron2's metrics have it
