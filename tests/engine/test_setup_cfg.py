import pytest
from detectron2.config import CfgNode

from queryinst.engine import setup_cfg
from queryinst.model_zoo import get_config_file

ZOO_NAME = "COCO-InstanceSegmentation/queryinst_R_50_FPN_3x_300q.yaml"


@pytest.fixture
def config(tmp_path):
    """A function that writes a yaml file and gives its path."""

    def write(text, name="model.yaml"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return write


def message(error_info):
    """The message of a caught error, which must be one line."""
    text = str(error_info.value.args[0])
    assert text and "\n" not in text
    return text


def test_setup_cfg_reads_a_zoo_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = setup_cfg(ZOO_NAME)
    assert cfg.MODEL.QUERYINST.NUM_QUERIES == 300 and cfg.MODEL.META_ARCHITECTURE == "QueryInst"
    assert cfg == setup_cfg(get_config_file(ZOO_NAME))
    assert cfg.is_frozen()


def test_setup_cfg_prefers_a_file_to_a_zoo_name(config, tmp_path, monkeypatch):
    (tmp_path / "COCO-InstanceSegmentation").mkdir()
    config("VERSION: 2\nSOLVER: {MAX_ITER: 7}", ZOO_NAME)
    monkeypatch.chdir(tmp_path)
    assert setup_cfg(ZOO_NAME).SOLVER.MAX_ITER == 7


def test_setup_cfg_lets_options_override_the_file_and_weights_both(config):
    path = config("VERSION: 2\nMODEL: {WEIGHTS: a}\nSOLVER: {MAX_ITER: 7, STEPS: [3]}")
    cfg = setup_cfg(path, ["SOLVER.MAX_ITER", "9", "MODEL.WEIGHTS", "b"], weights="c")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.MODEL.WEIGHTS) == (9, (3,), "c")


def test_setup_cfg_has_the_defaults_without_a_file():
    cfg = setup_cfg("", ["MODEL.QUERYINST.NUM_STAGES", 3])
    assert isinstance(cfg, CfgNode) and cfg.MODEL.QUERYINST.NUM_STAGES == 3


def test_setup_cfg_names_a_missing_file_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere.yaml does not exist") as error:
        setup_cfg("nowhere.yaml")
    assert str(tmp_path) in message(error)
    with pytest.raises(FileNotFoundError, match="is a folder, not a yaml file"):
        setup_cfg(str(tmp_path))


def test_setup_cfg_names_the_line_of_malformed_yaml(config):
    path = config("MODEL:\n  MASK_ON: [True\nSOLVER: {}\n")
    with pytest.raises(ValueError, match="not valid yaml") as error:
        setup_cfg(path)
    assert f"{path}, line 3," in message(error)


def test_setup_cfg_names_the_base_with_malformed_yaml(config):
    base = config("MODEL: {\n", "base.yaml")
    with pytest.raises(ValueError, match="not valid yaml") as error:
        setup_cfg(config("_BASE_: base.yaml\n"))
    assert base in message(error)


@pytest.mark.parametrize("text", ["", "- MODEL\n- SOLVER\n", "just text", "7"])
def test_setup_cfg_refuses_yaml_that_is_not_a_mapping(config, text):
    path = config(text)
    with pytest.raises(ValueError, match="not a configuration, a yaml mapping") as error:
        setup_cfg(path)
    assert message(error).startswith(path)


def test_setup_cfg_refuses_a_file_that_is_not_text(config):
    path = config(b"PK\x03\x04\xff\xfe\x00\x80", "model.pth")
    with pytest.raises(ValueError, match="model.pth") as error:
        setup_cfg(path)
    assert "text" in message(error) or "yaml" in message(error)


@pytest.mark.parametrize(
    "key, close",
    [
        ("MODEL.QUERYINST.NUM_QUERYS", "MODEL.QUERYINST.NUM_QUERIES"),
        ("MODEL.QUERYINTS.NUM_QUERIES", "MODEL.QUERYINST.NUM_QUERIES"),
        ("ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("CHECKPOINT_KEEP", "SOLVER.CHECKPOINT_KEEP"),
        ("SOLVER.MAX_ITER.MORE", "SOLVER.MAX_ITER"),
        ("XYZZY", None),
    ],
)
def test_setup_cfg_names_the_closest_key_for_the_command_line(key, close):
    with pytest.raises(KeyError, match=f"unknown key {key} in the command line") as error:
        setup_cfg("", [key, "3"])
    assert message(error).endswith(f"did you mean {close}?" if close else "line")


def test_setup_cfg_names_the_closest_key_for_a_file(config):
    path = config("VERSION: 2\nMODEL: {QUERYINST: {STAGES: 6}}")
    with pytest.raises(KeyError) as error:
        setup_cfg(path)
    assert f"unknown key MODEL.QUERYINST.STAGES in {path}" in message(error)
    assert "did you mean MODEL.QUERYINST.NUM_STAGES?" in message(error)


@pytest.mark.parametrize(
    "key, value, wanted",
    [
        ("SOLVER.MAX_ITER", "many", "is many, of type str; it must be of type int"),
        ("SOLVER.BASE_LR", "1", "is 1, of type int; it must be of type float"),
        ("MODEL.MASK_ON", "3", "is 3, of type int; it must be of type bool"),
        ("DATASETS.TRAIN", "mine", "a tuple of one is written ('mine',)"),
        ("MODEL.QUERYINST", "3", "of type int; it must be of type section with keys"),
        ("SOLVER.MAX_ITER", "None", "is None; it must be of type int, the default is 40000"),
    ],
)
def test_setup_cfg_names_the_type_that_a_value_must_have(config, key, value, wanted):
    with pytest.raises(ValueError) as on_command_line:
        setup_cfg("", [key, value])
    section, name = key.rsplit(".", 1)
    tree = f"{name}: {'null' if value == 'None' else value}"
    for part in reversed(section.split(".")):
        tree = f"{part}: {{{tree}}}"
    with pytest.raises(ValueError) as in_file:
        setup_cfg(config(f"VERSION: 2\n{tree}"))
    for error in (on_command_line, in_file):
        assert message(error).startswith(key) and wanted in message(error)


def test_setup_cfg_refuses_an_empty_section(config):
    with pytest.raises(ValueError, match="SOLVER in .* must be of type section"):
        setup_cfg(config("VERSION: 2\nSOLVER:\n"))


def test_setup_cfg_names_a_missing_base_and_its_file(config, tmp_path):
    path = config("_BASE_: gone.yaml\n")
    with pytest.raises(FileNotFoundError, match="_BASE_ names, does not exist") as error:
        setup_cfg(path)
    assert path in message(error) and str(tmp_path / "gone.yaml") in message(error)


def test_setup_cfg_refuses_circular_bases(config):
    config("_BASE_: two.yaml\n", "one.yaml")
    with pytest.raises(ValueError, match="leads back") as error:
        setup_cfg(config("_BASE_: one.yaml\n", "two.yaml"))
    assert "two.yaml" in message(error)


def test_setup_cfg_refuses_a_base_that_is_not_a_file_name(config):
    with pytest.raises(ValueError, match="not a configuration"):
        setup_cfg(config("_BASE_: 3\n"))


def test_setup_cfg_refuses_a_base_on_the_command_line():
    with pytest.raises(ValueError, match="_BASE_.* can only be used in files"):
        setup_cfg("", ["_BASE_", "x.yaml"])


def test_setup_cfg_refuses_an_odd_number_of_options():
    with pytest.raises(ValueError, match="3 words .*KEY VALUE pairs: SOLVER.MAX_ITER 5 SEED"):
        setup_cfg("", ["SOLVER.MAX_ITER", "5", "SEED"])


def test_setup_cfg_refuses_a_flag_after_the_options():
    with pytest.raises(ValueError, match="--eval-only is too late; flags come before"):
        setup_cfg("", ["SOLVER.MAX_ITER", "5", "--eval-only"])
