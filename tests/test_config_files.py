"""No reader of configurations executes or fetches what a yaml says, even in a file it refuses."""

import json
import time

import pytest
import torch
import yaml
from detectron2.utils.file_io import PathManager

from queryinst.checkpoint.meta import build_meta
from queryinst.config import config_of_checkpoint
from queryinst.config_files import default_cfg, merge_file, merge_keys, merge_opts
from queryinst.convert.description import find_model
from queryinst.convert.source import Source
from queryinst.engine import setup_cfg
from queryinst.engine.predictor import Predictor
from queryinst.model_zoo import get_config
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML, load_models
from queryinst.model_zoo.model_zoo import config_of
from queryinst.report.run_files import read_run
from queryinst.testing import tiny_cfg

# Each begins as a file that may be meant, and ends with what makes it invalid otherwise, too.
EXECUTES = [
    "VERSION: 2\nVIS_PERIOD: !!python/object/apply:os.system ['touch {marker}']\n",
    "VERSION: 2\nVIS_PERIOD: !!python/object/apply:eval [\"open('{marker}', 'w')\"]\nNO_KEY: 1\n",
    "VERSION: 2\nMODEL: [!!python/object/new:os.system ['touch {marker}']\n",
    "- !!python/object/apply:subprocess.check_output [[touch, '{marker}']]\n",
]
BOMB = "A0: &a0 [x]\n" + "".join(
    f"A{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def write(path, text):
    path.write_text(text)
    return str(path)


def read_config_file(folder, text, monkeypatch):
    setup_cfg(write(folder / "model.yaml", text))


def read_base(folder, text, monkeypatch):
    write(folder / "base.yaml", text)
    setup_cfg(write(folder / "model.yaml", "_BASE_: [base.yaml]\nNO_SUCH_KEY: 1\n"))


def read_base_of_the_zoo(folder, text, monkeypatch):
    write(folder / "Base-QueryInst.yaml", text)
    write(folder / "own.yaml", "_BASE_: Base-QueryInst.yaml\n")
    monkeypatch.setattr("queryinst.model_zoo.model_zoo._find_config_dir", lambda: folder)
    get_config("own.yaml")


def read_config_of_models_yaml(folder, text, monkeypatch):
    write(folder / "own.yaml", text)
    entry = yaml.safe_load(PACKAGED_MODELS_YAML.read_text())["models"][0] | {"config": "own.yaml"}
    path = write(folder / "models.yaml", yaml.safe_dump({"models": [entry]}))
    monkeypatch.setenv("QUERYINST_MODELS_YAML", path)
    config_of(load_models()[0])


def read_models_yaml(folder, text, monkeypatch):
    monkeypatch.setenv("QUERYINST_MODELS_YAML", write(folder / "models.yaml", text))
    load_models()


def checkpoint(folder, text):
    meta = build_meta(tiny_cfg(), None) | {"config": text}
    torch.save({"model": {"weight": torch.zeros(1)}, "meta": meta}, folder / "model.pth")
    return str(folder / "model.pth")


def read_checkpoint_to_predict(folder, text, monkeypatch):
    Predictor.from_checkpoint(checkpoint(folder, text))


def read_checkpoint_to_convert(folder, text, monkeypatch):
    meta = build_meta(tiny_cfg(), None) | {"config": text}
    find_model(Source("model.pth", "0" * 64, "", {}, meta, ()), "")


def read_run_to_report(folder, text, monkeypatch):
    (folder / "inference" / "shapes").mkdir(parents=True)
    write(folder / "results.json", json.dumps({"shapes": {"bbox": {"AP": 1.0}}}))
    write(folder / "metrics.json", "")
    write(folder / "inference" / "shapes" / "coco_instances_results.json", "[]")
    write(folder / "config.yaml", text)
    read_run(str(folder))


READERS = [
    read_config_file,
    read_base,
    read_base_of_the_zoo,
    read_config_of_models_yaml,
    read_models_yaml,
    read_checkpoint_to_predict,
    read_checkpoint_to_convert,
    read_run_to_report,
]


def refusal(call, *args, kind=ValueError):
    with pytest.raises(kind) as raised:
        call(*args)
    text = str(raised.value.args[0])
    assert text and "\n" not in text and len(text) < 700
    return text


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("text", EXECUTES, ids=range(len(EXECUTES)))
def test_readers_execute_nothing(read, text, tmp_path, monkeypatch):
    marker = tmp_path / "executed"
    message = refusal(read, tmp_path, text.format(marker=marker), monkeypatch)
    assert "only plain values are read, no objects" in message
    assert not marker.exists()


@pytest.mark.parametrize("read", READERS)
def test_readers_refuse_an_alias_bomb_within_a_second(read, tmp_path, monkeypatch):
    assert len(BOMB) < 1000
    start = time.process_time()
    assert "with what aliases repeat" in refusal(read, tmp_path, BOMB, monkeypatch)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "s3", "detectron2", "queryinst"])
@pytest.mark.parametrize("place", ["--config-file", "_BASE_"])
def test_setup_cfg_fetches_nothing(scheme, place, tmp_path, monkeypatch):
    def no_fetch(*args, **kwargs):
        raise AssertionError("fetched")

    for name in ("open", "get_local_path", "isfile", "exists"):
        monkeypatch.setattr(PathManager, name, no_fetch)
    path = f"{scheme}://localhost:1/model.yaml"
    if place == "_BASE_":
        path = write(tmp_path / "model.yaml", f"_BASE_: {path}\n")
    message = refusal(setup_cfg, path)
    assert f"{scheme}://localhost:1/model.yaml is not a local file" in message


@pytest.mark.parametrize(
    "value",
    ["-" * 100_000 + "1", "1" + "+1" * 5_000, "a" + "()" * 5_000, "[1," * 5_000],
    ids=lambda value: value[:8],
)
@pytest.mark.parametrize("key", ["SOLVER.MAX_ITER", "MODEL.WEIGHTS"])
def test_merge_opts_and_merge_file_refuse_deeply_nested_values(key, value, tmp_path):
    message = refusal(merge_opts, default_cfg(), [key, value])
    assert message == "the command line: a value is nested too deeply to be read"
    section, name = key.split(".")
    path = write(tmp_path / "model.yaml", yaml.safe_dump({section: {name: value}}))
    assert "nested too deeply" in refusal(merge_file, default_cfg(), path, path)


@pytest.mark.parametrize(
    "value",
    ["[" * 150 + "]" * 150, "{1: 2}", "1j", "b'x'", "x" * 100_000, "9" * 5000, "0x" + "f" * 9000],
)
@pytest.mark.parametrize("key", ["SOLVER.MAX_ITER", "SOLVER.BASE_LR"])
def test_merge_opts_refuses_other_literals_in_one_short_line(key, value):
    refusal(merge_opts, default_cfg(), [key, value])


def test_merge_opts_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    value = f"__import__('os').system('touch {marker}')"
    refusal(merge_opts, default_cfg(), ["SOLVER.MAX_ITER", value])
    cfg = default_cfg()
    merge_opts(cfg, ["MODEL.WEIGHTS", value])
    assert cfg.MODEL.WEIGHTS == value and not marker.exists()


@pytest.mark.parametrize(
    "keys",
    [
        {1: 2},
        {None: 1},
        {(): 1},
        {"MODEL": {1: 2}},
        {"MODEL": 3},
        {"MODEL": {"QUERYINST": [1]}},
        {"MODEL": {"QUERYINST": {"NUM_QUERIES": {"a": 1}}}},
        {"VERSION": 1},
        {"VERSION": "2"},
        {"OUTPUT_DIR": yaml.safe_load("2020-01-01")},
        {"__immutable__": True, "clear": 1},
    ],
    ids=repr,
)
def test_merge_keys_refuses_what_is_no_configuration(keys):
    kind = (KeyError, ValueError)
    assert "the label" in refusal(merge_keys, default_cfg(), keys, "the label", kind=kind)


def test_merge_file_reads_a_file_without_version(tmp_path):
    cfg = default_cfg()
    merge_file(cfg, write(tmp_path / "a.yaml", "SOLVER: {MAX_ITER: 7}"), "a.yaml")
    assert cfg.SOLVER.MAX_ITER == 7


@pytest.mark.parametrize("text", [3, None, ["a"], b"a: 1", "- a", "a", "", "a: [", "2020-01-01"])
def test_config_of_checkpoint_refuses_what_is_no_mapping(text):
    assert refusal(config_of_checkpoint, text, "the label").startswith("the label")


@pytest.mark.parametrize("text", ["MODEL: 3", "MODEL: [a]", "MODEL: {QUERYINST: 3}", "1: 2"])
def test_predictor_names_the_checkpoint_with_a_wrong_configuration(text, tmp_path):
    path = checkpoint(tmp_path, text)
    assert path in refusal(Predictor.from_checkpoint, path)
