"""models.yaml: what it says is true, and what is wrong in one is said in one line."""

import re

import pytest
import yaml

from queryinst.model_zoo import get_config, load_models
from queryinst.model_zoo.conversion import build_on_meta
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML

COCO_TRAIN_IMAGES = 117266  # with instances
PACKAGED = load_models(PACKAGED_MODELS_YAML)
PLAIN = yaml.safe_load(PACKAGED_MODELS_YAML.read_text())["models"]
BY_MMDETECTION = {
    "5a8f1998": (42.0, 37.5),
    "7837af86": (44.8, 39.8),
    "85cffbd8": (47.5, 41.7),
    "91f9995b": (46.4, 41.0),
    "76cce59f": (49.0, 42.9),
}


def test_load_models_has_the_figures_that_were_published():
    by_mmdetection = [entry for entry in PACKAGED if entry.url]
    published = {e.sha256_prefix: (e.published.box_ap, e.published.mask_ap) for e in by_mmdetection}
    assert published == BY_MMDETECTION
    base = "https://download.openmmlab.com/mmdetection/v2.0/queryinst"
    for entry in by_mmdetection:
        # The last eight digits of a published name are the start of the file's sha256.
        assert re.fullmatch(rf"{entry.name}_\d+_\d+-{entry.sha256_prefix}\.pth", entry.file_name)
        assert entry.url == f"{base}/{entry.name}/{entry.file_name}"
        assert entry.checkpoint_url == f"queryinst://mmdet/{entry.name}/{entry.sha256_prefix}.pth"
        assert (entry.licence, entry.published.by) == ("Apache-2.0", "MMDetection")
    authors = [entry for entry in PACKAGED if not entry.url]
    published = [(e.published.box_ap, e.published.mask_ap, e.licence) for e in authors]
    assert published == [(46.9, 41.4, "MIT"), (48.0, 42.4, "MIT")]
    assert all(entry.config.endswith("_paper.yaml") for entry in authors)
    assert {entry.training_data for entry in PACKAGED} == {"COCO train2017"}


@pytest.mark.parametrize("entry", PACKAGED, ids=lambda entry: entry.name)
def test_load_models_has_the_configurations_sizes_and_recipes(entry):
    cfg = get_config(entry.config)
    model = build_on_meta(cfg)
    assert {str(value.device) for value in model.state_dict().values()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    everything = sum(value.numel() for value in model.state_dict().values())
    assert entry.approximate_size_mb == round(4 * everything / 1e6)
    recipe, sizes = entry.recipe, cfg.INPUT.MIN_SIZE_TRAIN
    assert recipe.queries == cfg.MODEL.QUERYINST.NUM_QUERIES
    per_epoch = -(-COCO_TRAIN_IMAGES // cfg.SOLVER.IMS_PER_BATCH)
    assert recipe.epochs * per_epoch == cfg.SOLVER.MAX_ITER
    assert recipe.short_side == "-".join(map(str, sorted({min(sizes), max(sizes)})))
    assert recipe.crop == cfg.INPUT.CROP.ENABLED


def nested(entry, path, value):
    """A copy of a plain entry with one field replaced, or without it if the value is `...`."""
    key, _, rest = path.partition(".")
    changed = {k: v for k, v in entry.items() if k != key}
    if rest:
        changed[key] = nested(entry[key], rest, value)
    elif value is not ...:
        changed[key] = value
    return changed


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("licence", ..., "missing 1 required .* 'licence'"),
        ("colour", "red", "unexpected keyword argument 'colour'"),
        ("sha256_prefix", 12345678, "sha256_prefix is 12345678; it must be .* in quotes"),
        ("sha256_prefix", "XYZ", "sha256_prefix is 'XYZ'; it must be the first 8 hexadecimal"),
        ("sha256_prefix", None, "must both be given, or both be null"),
        ("url", "ftp://there/file.pth", "must be the http.s. address of a file"),
        ("url", "https://there/", "must be the http.s. address of a file"),
        ("url", "https://there/%2Fetc%2F..", "must be the http.s. address of a file"),
        ("url", "https://there/files/..", "must be the http.s. address of a file"),
        ("config", None, "config is None; it must be the name or path"),
        ("name", "../up", "name is '../up'; it must be of letters"),
        ("published", ..., "lacks the field published"),
        ("published", 42.0, "Published.* must be a mapping"),
        ("published.box_ap", ..., "missing 1 required .* 'box_ap'"),
        ("published", {"box_ap": 1.0}, "Published.* missing 3 required .* 'mask_ap'"),
    ],
)
def test_load_models_names_file_entry_and_wrong_field(tmp_path, path, value, said):
    first, second = PLAIN[:2]
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump({"models": [first, nested(second, path, value)]}))
    with pytest.raises(ValueError, match=said) as caught:
        load_models(file)
    entry = value if path == "name" else second["name"]
    assert str(caught.value).startswith(f"{file}, entry {entry}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("models: [", "is not valid yaml"),
        ("models: {}", "must hold one key, models"),
        ("", "must hold one key, models"),
        ("models: [nothing]", "entry 1 is not an entry"),
    ],
)
def test_load_models_names_a_wrong_file(tmp_path, monkeypatch, text, said):
    file = tmp_path / "models.yaml"
    file.write_text(text)
    monkeypatch.setenv("QUERYINST_MODELS_YAML", str(file))
    with pytest.raises(ValueError, match=said) as caught:
        load_models()
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_load_models_refuses_equal_names_and_configurations(tmp_path):
    first, second = PLAIN[:2]
    file = tmp_path / "models.yaml"
    for field in ("name", "config"):
        file.write_text(yaml.safe_dump({"models": [first, {**second, field: first[field]}]}))
        with pytest.raises(ValueError, match=f"two entries of the {field} '{first[field]}'"):
            load_models(file)


def test_load_models_reads_the_variables_file(zoo, monkeypatch):
    zoo.publish(b"")
    assert [entry.name for entry in load_models()] == ["tiny"]
    monkeypatch.setenv("QUERYINST_MODELS_YAML", "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="nowhere.yaml can't be read.*QUERYINST_MODELS"):
        load_models()
    monkeypatch.delenv("QUERYINST_MODELS_YAML")
    assert load_models() == PACKAGED
