"""The files of the procedural data set, the road from them to the model, and the command lines."""

import functools
import io
import itertools
import json
import runpy
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image

from queryinst.data import shapes
from queryinst.data.shapes import encode_png, is_complete, make_shapes, register_shapes
from queryinst.data.shapes_drawing import CLASSES, draw_scene
from queryinst.testing import tiny_cfg

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of data sets with a small set in it; nobody writes to it."""
    path = tmp_path_factory.mktemp("datasets")
    assert make_shapes(path, num_train=6, num_val=3)
    return path


@pytest.fixture
def registered(root):
    """The small set under the usual names; the former registration comes back."""
    names = [f"shapes_{split}" for split in shapes.SPLITS]
    former = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    register_shapes(str(root))
    yield names
    for name, (load, metadata) in former.items():
        DatasetCatalog[name], MetadataCatalog[name] = load, metadata


def bytes_below(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_split(root, split):
    return json.loads((root / "shapes" / "annotations" / f"{split}.json").read_text())


def test_make_shapes_writes_the_same_bytes_every_time(root, tmp_path):
    make_shapes(tmp_path, num_train=6, num_val=3)
    assert bytes_below(tmp_path) == bytes_below(root)


def test_make_shapes_draws_other_images_with_another_seed(root, tmp_path):
    make_shapes(tmp_path, num_train=1, num_val=1, seed=1)
    for split in shapes.SPLITS:
        file = f"shapes/{split}/000000.png"
        assert (tmp_path / file).read_bytes() != (root / file).read_bytes()


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5), (128, 128), (150, 300)])
def test_make_shapes_writes_png_files_that_read_back(height, width):
    image = np.random.RandomState(0).randint(256, size=(height, width, 3)).astype(np.uint8)
    read = Image.open(io.BytesIO(encode_png(image)))
    assert (read.format, read.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(read), image)


def test_make_shapes_writes_cocos_format(root):
    coco = read_split(root, "train")
    assert coco["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    assert [image["id"] for image in coco["images"]] == list(range(1, 7))
    ids = [annotation["id"] for annotation in coco["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert {a["image_id"] for a in coco["annotations"]} == set(range(1, 7))
    for annotation in coco["annotations"]:
        assert isinstance(annotation["segmentation"]["counts"], str)
        mask = mask_util.decode(annotation["segmentation"])
        x, y, width, height = annotation["bbox"]
        inside = mask[y : y + height, x : x + width]
        assert annotation["area"] == mask.sum() == inside.sum() > 0
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        assert annotation["iscrowd"] == 0


def test_make_shapes_writes_the_scenes(root):
    coco = read_split(root, "val")
    for index, image in enumerate(coco["images"]):
        scene = draw_scene((0, 1, index))
        read = Image.open(root / "shapes" / "val" / image["file_name"])
        np.testing.assert_array_equal(np.asarray(read), scene.image)
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert len(own) == len(scene.instances)
        for annotation, instance in zip(own, scene.instances):
            assert annotation["category_id"] == instance.class_idx + 1
            np.testing.assert_array_equal(
                mask_util.decode(annotation["segmentation"]), instance.mask
            )


def test_make_shapes_writes_nothing_the_second_time(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not make_shapes(root, num_train=6, num_val=3)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("lost", ["train/000001.png", "annotations/val.json", "made.json"])
def test_make_shapes_replaces_an_incomplete_set(tmp_path, lost):
    make_shapes(tmp_path, num_train=2, num_val=1)
    whole = bytes_below(tmp_path)
    (tmp_path / "shapes" / lost).unlink()
    force = lost == "made.json"  # without it the folder might be anybody's
    assert make_shapes(tmp_path, num_train=2, num_val=1, force=force)
    assert bytes_below(tmp_path) == whole


def test_make_shapes_replaces_another_set_of_its_own(tmp_path):
    make_shapes(tmp_path, num_train=2, num_val=1)
    assert make_shapes(tmp_path, num_train=1, num_val=1)
    assert len(list((tmp_path / "shapes" / "train").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("after", [0, 2, 4])
@pytest.mark.parametrize("has_old_set", [False, True])
def test_make_shapes_leaves_the_old_set_if_interrupted(tmp_path, monkeypatch, after, has_old_set):
    if has_old_set:
        make_shapes(tmp_path, num_train=1, num_val=1)
    before = bytes_below(tmp_path)
    drawn = itertools.count()

    def draw_then_stop(key):
        if next(drawn) >= after:
            raise KeyboardInterrupt
        return draw_scene(key)

    monkeypatch.setattr(shapes, "draw_scene", draw_then_stop)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path, num_train=3, num_val=3)
    assert bytes_below(tmp_path) == before
    assert not is_complete(tmp_path / "shapes")


def test_make_shapes_leaves_a_foreign_folder_alone(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="shapes was not made by this tool.*--root.*--force"):
        make_shapes(tmp_path, num_train=1, num_val=1)
    assert list(bytes_below(tmp_path)) == ["shapes/precious.txt"]


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}])
def test_make_shapes_refuses_wrong_numbers(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        make_shapes(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_register_shapes_runs_on_import_and_only_once(monkeypatch):
    for split in shapes.SPLITS:
        assert f"shapes_{split}" in DatasetCatalog
    former = MetadataCatalog.get("shapes_train").image_root
    register_shapes("/elsewhere")
    assert MetadataCatalog.get("shapes_train").image_root == former
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert shapes.default_root() == str(Path.home() / "sets")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert shapes.default_root() == "datasets"


def test_register_shapes_lets_detectron2_load_it(registered, root):
    for name, num_images in zip(registered, (6, 3)):
        records = DatasetCatalog.get(name)
        assert len(records) == num_images
        assert {a["category_id"] for r in records for a in r["annotations"]} <= {0, 1, 2}
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == list(CLASSES)
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2}
        assert metadata.evaluator_type == "coco"
        assert Path(metadata.json_file).is_relative_to(root)


def test_build_mapper_gives_the_drawn_masks(registered):
    cfg = tiny_cfg(INPUT__MASK_FORMAT="bitmask", INPUT__FORMAT="RGB")
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    for index, record in enumerate(DatasetCatalog.get("shapes_train")):
        scene, mapped = draw_scene((0, 0, index)), mapper(record)
        np.testing.assert_array_equal(mapped["image"].permute(1, 2, 0).numpy(), scene.image)
        masks = mapped["instances"].gt_masks.tensor.numpy()
        np.testing.assert_array_equal(masks, [instance.mask for instance in scene.instances])
        np.testing.assert_array_equal(
            mapped["instances"].gt_boxes.tensor.numpy(),
            mapped["instances"].gt_masks.get_bounding_boxes().tensor.numpy(),
        )
        classes = [instance.class_idx for instance in scene.instances]
        assert mapped["instances"].gt_classes.tolist() == classes


def run_tool(name, monkeypatch, *args):
    monkeypatch.setattr("sys.argv", [name, *map(str, args)])
    runpy.run_path(str(TOOLS / name), run_name="__main__")


def test_make_shapes_command_line_names_the_error_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    with pytest.raises(SystemExit, match=r"^make_shapes: .* was not made by this tool.*$"):
        run_tool("make_shapes.py", monkeypatch, "--root", tmp_path)


def test_make_shapes_command_line_writes_once(tmp_path, monkeypatch, capsys):
    few = functools.partial(make_shapes, num_train=2, num_val=1)
    monkeypatch.setattr(shapes, "make_shapes", few)
    for state in ("made in 0 s", "there already"):
        run_tool("make_shapes.py", monkeypatch, "--root", tmp_path)
        assert capsys.readouterr().out.strip().endswith(state)
