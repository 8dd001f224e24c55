"""Yaml of others is read as plain values, or refused in one line; nothing in it runs."""

import time

import pytest

from queryinst.yaml_files import MAX_FILES, load_config_file, load_local_yaml, load_yaml


def bomb(first="[x]", level="[{}]", num_levels=9, num_aliases=9):
    """Nine aliases to nine aliases to ...: 9**9 values from less than 1 kB."""
    lines = [f"a0: &a0 {first}"]
    for i in range(1, num_levels):
        aliases = ",".join([f"*a{i - 1}"] * num_aliases)
        lines.append(f"a{i}: &a{i} {level.format(aliases)}")
    return "\n".join(lines)


def refusal(call, *args):
    """The one line of a refusal within a second or two of this process."""
    start = time.process_time()
    with pytest.raises(ValueError) as raised:
        call(*args)
    assert time.process_time() - start < 2
    text = str(raised.value)
    assert text and "\n" not in text and len(text) < 500
    return text


def test_load_yaml_gives_plain_values_with_aliases_and_merge_keys():
    text = "a: &a {b: 1}\nc: {<<: *a, d: [*a, 0x10, 1_000, 1.5, on, null, 'x']}\ne: !!str 7"
    expected = [{"b": 1}, 16, 1000, 1.5, True, None, "x"]
    assert load_yaml(text, "t") == {"a": {"b": 1}, "c": {"b": 1, "d": expected}, "e": "7"}
    assert load_yaml("", "t") is None


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:os.system ['touch {}']",
        "[!!python/object/apply:subprocess.check_output [[touch, '{}']]]",
        "!!python/object/apply:eval [\"open('{}', 'w')\"]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {}']",
        "!mine {{a: 1}}",
        "!!binary aGk=",
        "!!set {{a}}",
        "!!omap [a: 1]",
    ],
)
def test_load_yaml_refuses_tags_that_build_objects(tmp_path, value):
    marker = tmp_path / "executed"
    text = refusal(load_yaml, f"a: 1\nVIS_PERIOD: {value.format(marker)}\n", "the label")
    assert text.startswith("the label, line 2, has the tag !") and "no objects" in text
    assert not marker.exists()


def test_load_yaml_refuses_a_tag_by_another_handle(tmp_path):
    text = "%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ['touch {}']"
    assert "!!python/object/apply:os.system" in refusal(
        load_yaml, text.format(tmp_path / "executed"), "t"
    )
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text, reason",
    [
        (bomb(), "more than 50,000 values"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "more than 50,000 values"),
        (bomb("{x: 1}", "{{b: [{}]}}"), "more than 50,000 values"),
        (bomb(num_levels=200, num_aliases=1), "50 levels deep"),
        ("&a [*a]", "within &a itself"),
        ("a: &a {b: {c: *a}}", "within &a itself"),
        ("a: *b", "undefined alias"),
        ("[" * 100_000, "50 levels deep"),
        ("- " * 100_000, "50 levels deep"),
        ("? " * 100_000, "50 levels deep"),
        ("{a: " * 20_000, "50 levels deep"),
        ("[" + "1," * 60_000 + "]", "more than 50,000 values"),
        ("x" * 1_000_001, "1,000,000 characters"),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: 0x" + "f" * 5000, "a number of"),
        ("a: 1" + ":1" * 300_000, "a number of"),
        ("a: 1" + ":1" * 300 + ".5", "a number of"),
        ("a: !!int '1" + ":1" * 300_000 + "'", "a number of"),
    ],
    ids=lambda value: value[:12],
)
def test_load_yaml_refuses_what_would_take_memory_or_time(text, reason):
    message = refusal(load_yaml, text, "the label")
    assert message.startswith("the label") and reason in message


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: b: c", "a: \0", "\t- a", "a: 1\n---\nb: 2", "? {a: 1}\n: 2", "<<: [[1]]", "a: ="]
    + ['!!int ""', '!!float ""', "!!bool x", "!!int [1]", "a: 2020-99-99", "%YAML 9.9\n---\na"],
)
def test_load_yaml_refuses_invalid_yaml(text):
    message = refusal(load_yaml, text, "the label")
    assert message.startswith("the label") and "is not valid yaml" in message


@pytest.mark.parametrize("text", [None, 3, b"a: 1", ["a"], {"a": 1}])
def test_load_yaml_refuses_what_is_not_a_text(text):
    assert "not a yaml text" in refusal(load_yaml, text, "the label")


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "s3", "file", "detectron2", "a+b.c-d"])
def test_load_local_yaml_refuses_what_has_a_scheme(scheme):
    text = refusal(load_local_yaml, f"{scheme}://host/model.yaml")
    assert f"{scheme}://host/model.yaml is not a local file" in text


def test_load_local_yaml_refuses_devices_and_folders(tmp_path):
    for path in ("/dev/zero", str(tmp_path)):
        assert "not a yaml file" in refusal(load_local_yaml, path)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_load_config_file_lets_a_file_override_its_bases(write):
    write("bases/first.yaml", "A: {x: 1, y: 1, z: 1}\nB: 1\n")
    write("bases/second.yaml", "_BASE_: first.yaml\nA: {y: 2, z: 2}\n")
    write("other.yaml", "A: {z: 3, l: [1]}\nC: 3\n")
    path = write("model.yaml", "_BASE_: [bases/second.yaml, other.yaml]\nA: {l: [4]}\nD: 4\n")
    expected = {"A": {"x": 1, "y": 2, "z": 3, "l": [4]}, "B": 1, "C": 3, "D": 4}
    assert load_config_file(path) == expected


def test_load_config_file_takes_absolute_paths_and_the_home_folder(write, tmp_path, monkeypatch):
    base = write("base.yaml", "A: 1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (base, "~/base.yaml"):
        assert load_config_file(write("sub/model.yaml", f"_BASE_: {name}\n")) == {"A": 1}


def test_load_config_file_leaves_the_other_users_of_an_anchor_alone(write):
    write("base.yaml", "A: &a {x: 1}\nB: *a\n")
    path = write("model.yaml", "_BASE_: base.yaml\nA: {x: 2}\n")
    assert load_config_file(path) == {"A": {"x": 2}, "B": {"x": 1}}


@pytest.mark.parametrize("base", ["http://h/b.yaml", "https://h/b.yaml", "s3://h/b.yaml"])
@pytest.mark.parametrize("form", ["{}", "[base.yaml, '{}']"])
def test_load_config_file_fetches_no_base(write, base, form):
    write("base.yaml", "A: 1\n")
    path = write("model.yaml", f"_BASE_: {form.format(base)}\n")
    assert f"{path}: its _BASE_ {base} is not a local file" in refusal(load_config_file, path)


@pytest.mark.parametrize("base", ["3", "null", "''", "{a: 1}", "[[a]]", "[3]", r'"a\0b"'])
def test_load_config_file_refuses_a_base_that_is_not_a_path(write, base):
    path = write("model.yaml", f"_BASE_: {base}\n")
    assert f"{path} is not a configuration" in refusal(load_config_file, path)


def test_load_config_file_refuses_cycles_and_a_bomb_of_bases(write):
    write("b.yaml", "_BASE_: a.yaml\n")
    assert "leads back" in refusal(load_config_file, write("a.yaml", "_BASE_: ./b.yaml\n"))
    write("0.yaml", "A: 1\n")
    for i in range(1, 12):
        path = write(f"{i}.yaml", f"_BASE_: [{', '.join([f'{i - 1}.yaml'] * 9)}]\n")
    assert f"more than {MAX_FILES} files" in refusal(load_config_file, path)


def test_load_config_file_names_the_files(write):
    write("base.yaml", "A: 1\n")
    path = write("model.yaml", "_BASE_: base.yaml\nA: {x: 1}\n")
    assert f"{path}: A has keys of its own" in refusal(load_config_file, path)
    path = write("model.yaml", "_BASE_: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match=f"{path}: .*gone.yaml, which a _BASE_ names"):
        load_config_file(path)
    write("gone.yaml", "- 1\n")
    assert "gone.yaml is not a configuration" in refusal(load_config_file, path)
