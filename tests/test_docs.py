"""What the documents name is there, what they say of keys is true, and their Python runs."""

import ast
import functools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from PIL import Image

from queryinst.checkpoint import QueryInstCheckpointer, build_meta
from queryinst.config import add_queryinst_config
from queryinst.data.registration import add_dataset_argument
from queryinst.data.video_writing import VideoWriter
from queryinst.demo.visualize import build_parser
from queryinst.engine import setup_cfg
from queryinst.testing import tiny_cfg
from queryinst_cli.arguments import JOBS, parse

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "projects/QueryInst/README.md"]
DOCUMENTS += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is made by running something, so that it is not in the repository.
MADE = ("datasets/", "output/", "mine/")
# Files of Detectron2, one that a run writes, and those of YOLO's format and of label images.
ELSEWHERE = {"model_zoo/model_zoo.py", "data/common.py", "config.yaml"}
ELSEWHERE |= {"data.yaml", "classes.txt", "names.csv", "names.json", "names.txt"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(read(name)) if kind == language]


def commands(name: str) -> list[str]:
    """The lines of the unmarked blocks, with their continuations."""
    return [
        line.strip() for text in blocks(name, "") for line in text.replace("\\\n", " ").split("\n")
    ]


def code_spans(name: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", read(name)))


def table(name: str, first_header: str) -> list[list[str]]:
    """The cells of the table whose header row begins so, without the header."""
    rows: list[list[str]] = []
    for line in read(name).split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if rows or (line.startswith("|") and cells[0].strip("| ") == first_header):
            if not line.startswith("|"):
                break
            rows.append([cell.strip("| ") for cell in cells])
    assert len(rows) > 2, f"{name} has no table of {first_header!r}"
    return rows[2:]


def leaves(node: CfgNode, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in node.items():
        nested = isinstance(value, CfgNode)
        flat |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def all_keys() -> dict:
    cfg = get_cfg()
    add_queryinst_config(cfg)
    return leaves(cfg)


def every(pattern: str) -> list[tuple[str, str]]:
    """(document, match) of every match of the pattern in the documents."""
    return [(name, match) for name in DOCUMENTS for match in re.findall(pattern, read(name))]


def test_links_lead_somewhere():
    known = re.compile(
        r"https://(arxiv\.org/abs/(2105\.01928|2203\.01305|2012\.07177)|github\.com/)"
    )
    wrong = []
    for name, target in every(r"\]\(([^)\s]+)\)"):
        path = (ROOT / name).parent / target.partition("#")[0]
        if not (known.match(target) if target.startswith("https://") else path.exists()):
            wrong.append(f"{name}: {target}")
    assert not wrong, "\n".join(wrong)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_of_links_are_headings():
    wrong = []
    for name, target in every(r"\]\(([^)\s]+)\)"):
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if anchor and not target.startswith("https://") and anchor not in anchors(path):
            wrong.append(f"{name}: {target}")
    assert not wrong, "\n".join(wrong)


def test_readme_links_to_every_page_and_stays_short():
    readme = read("README.md")
    assert [name for name in DOCUMENTS if f"]({name})" not in readme and name != "README.md"] == []
    assert len(readme.splitlines()) <= 120


def test_contributing_maps_every_folder():
    folder_map = blocks("CONTRIBUTING.md", "")[0]
    sources = re.findall(r"^SOURCES = (.+)$", read("Makefile"), re.MULTILINE)[0].split()
    folders = {"configs", "docs"} | {name for name in sources if (ROOT / name).is_dir()}
    assert len(folders) > 6
    assert [name for name in folders if not re.search(rf"^{name}/", folder_map, re.MULTILINE)] == []


def test_paths_are_there():
    own_folders = ("configs", "demo", "dev", "docs", "projects", "tests", "tools")
    files = [path for folder in own_folders for path in (ROOT / folder).rglob("*.*")]
    bare_names = {path.name for path in [*files, *ROOT.glob("*.*")]} | ELSEWHERE
    start = "|".join((*own_folders, r"\.ci"))
    pattern = re.compile(rf"(?<![\w./*-])((?:{start})/[\w./-]+|[\w/.-]+\.(?:yaml|py))(?![\w*])")
    wrong = []
    for name in DOCUMENTS:
        folders = [ROOT, (ROOT / name).parent, ROOT / "configs"]
        folders.append(ROOT / "projects/QueryInst/queryinst")
        text = re.sub(r"\]\([^)]*\)", "", read(name))
        for path in {path.rstrip(".") for path in pattern.findall(text)} - ELSEWHERE:
            places = [folder / path for folder in folders]
            if "/" not in path:
                exists = path in bare_names
            else:
                exists = path.startswith(MADE) or any(place.exists() for place in places)
            wrong += [] if exists else [f"{name}: {path}"]
    assert not wrong, "\n".join(wrong)


def test_keys_exist():
    known = all_keys().keys()
    known |= {key.rpartition(".")[0] for key in known}  # nodes, too
    sections = "MODEL|SOLVER|INPUT|DATASETS|DATALOADER|DISTRIBUTED|TEST"
    pattern = rf"(?:{sections})\.[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*"
    wrong = [f"{name}: {key}" for name, key in every(pattern) if key not in known]
    assert not wrong, "\n".join(wrong)


@functools.cache
def flags_of_the_package() -> set[str]:
    folders = (ROOT / "projects/QueryInst", ROOT / "dev")
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    return {flag for text in texts for flag in re.findall(r'"(--[\w-]+)"', text)}


def understand(line: str) -> None:
    """Raise what the command of this line would, as far as its words alone can tell."""
    is_command = line.startswith(("make", "python", "queryinst "))
    words = shlex.split(line, comments=True) if is_command else []
    if words[:1] == ["make"]:
        targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets, "no such target"
    elif words[:2] == ["python", "train_net.py"] and "..." not in words:
        parser = default_argument_parser()
        add_dataset_argument(parser)
        args = parser.parse_args(words[2:])
        setup_cfg(args.config_file, args.opts)
    elif words[:2] == ["python", "demo/demo.py"]:
        opts = build_parser().parse_args(words[2:]).opts
        assert len(opts) % 2 == 0 and set(opts[::2]) <= all_keys().keys(), "no such key"
    elif words[:1] == ["queryinst"] and words[1] in JOBS:
        opts = getattr(parse(words[1], words[2:]), "opts", [])
        assert set(opts[::2]) <= all_keys().keys(), "no such key"
    elif words[:1] == ["queryinst"]:
        assert False, "no such job"
    elif words[:2] == ["python", "-m"]:
        name = words[2].replace(".", "/")
        places = [folder / name for folder in (ROOT, ROOT / "projects/QueryInst")]
        found = [x for x in places if x.with_suffix(".py").exists() or (x / "__main__.py").exists()]
        assert found, "no module"
        assert {w for w in words if w.startswith("--")} <= flags_of_the_package(), "no such flag"
    elif words[:1] == ["python"]:
        flags = {word for word in words[2:] if word.startswith("--")}
        own = set(re.findall(r'"(--[\w-]+)"', read(words[1])))
        assert flags <= own | flags_of_the_package(), "no such flag"


def test_commands_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = []
    for name in DOCUMENTS:
        for line in commands(name):
            try:
                understand(line)
            except (Exception, SystemExit) as error:
                wrong.append(f"{name}: {line}: {error}")
    assert not wrong, "\n".join(wrong)


def test_all_own_keys_are_documented_with_their_defaults():
    before, after = leaves(get_cfg()), all_keys()
    own = {key: value for key, value in after.items() if key not in before}
    rows = [row for row in table("docs/configuration.md", "key") if len(row) == 4]
    documented = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in rows}
    assert documented == own
    assert all(unit and meaning for _, _, unit, meaning in rows)


def test_the_base_configuration_has_the_documented_values():
    text = read("docs/configuration.md").partition("## Detectron2's keys")[2]
    rows = re.findall(r"^\| `([A-Z0-9_.]+)` \| `(.+?)` \|", text, re.MULTILINE)
    cfg = leaves(setup_cfg("Base-QueryInst.yaml"))
    assert len(rows) > 20
    for key, value in rows:
        expected, found = ast.literal_eval(value), cfg[key]
        assert (list(found) if isinstance(found, (list, tuple)) else found) == expected, key
    # config.py names those that the model reads.
    spelled = re.sub(r"\s+", "", read("projects/QueryInst/queryinst/config.py").split('"""')[1])
    promised = set()
    for node, names in re.findall(r"``([A-Z0-9_.]+)\.\{([A-Z0-9_,]+)\}", spelled):
        promised |= {f"{node}.{key}" for key in names.split(",")}
    assert len(promised) > 10 and promised <= {key for key, _ in rows}


def test_setup_cfg_states_the_floors_that_the_others_name():
    setup = read("setup.cfg")
    python = re.findall(r"^python_requires = >=(3\.\d+)$", setup, re.MULTILINE)[0]
    torch = re.findall(r"^ +torch>=([\d.]+)$", setup, re.MULTILINE)[0]
    for name in ("README.md", "docs/installation.md"):
        assert f"needs Python {python} and torch {torch} or newer" in read(name), name
    assert re.findall(r"Python :: (3\.\d+)", setup)[0] == python
    as_tuple = f"({python.replace('.', ', ')})"
    for name in ("Makefile", "tools/collect_env.py", "tools/install_detectron2.py"):
        assert as_tuple in read(name) and f"needs Python {python} or newer" in read(name), name


def test_published_results_are_the_same_in_both_tables_and_labelled():
    published = {
        "R_50_FPN_1x": ("100", "42.0", "37.5"),
        "R_50_FPN_3x": ("100", "44.8", "39.8"),
        "R_50_FPN_3x_300q": ("300", "47.5", "41.7"),
        "R_101_FPN_3x": ("100", "46.4", "41.0"),
        "R_101_FPN_3x_300q": ("300", "49.0", "42.9"),
    }
    for name in ("README.md", "projects/QueryInst/README.md"):
        rows = table(name, "configuration")
        ap = 3 if name == "README.md" else 4  # the column of the box AP
        found = {
            re.findall(r"\[queryinst_(\w+)\]", r[0])[0]: (r[1], r[ap], r[ap + 1]) for r in rows
        }
        assert found == published, name
        said = " ".join(read(name).lower().split())
        assert "published by mmdetection, not measured here" in said
    for model, (queries, _, _) in published.items():
        cfg = setup_cfg(f"COCO-InstanceSegmentation/queryinst_{model}.yaml")
        assert cfg.MODEL.QUERYINST.NUM_QUERIES == int(queries)


def test_quoted_messages_are_those_of_the_code():
    foreign = (
        "torchvision::nms",
        "libGL",
        "Loss became infinite",
        "Unsupported type found",
    )  # torch's, OpenCV's, Detectron2's, fvcore's
    paths = [*(ROOT / "projects").rglob("*.py"), ROOT / "Makefile"]
    sources = "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in paths)
    quoted = re.findall(r"^\*\*`(.+?)`\*\*", read("docs/troubleshooting.md"), re.MULTILINE)
    assert len(quoted) > 15
    assert [q for q in quoted if q not in sources and not any(f in q for f in foreign)] == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the Python blocks open, of a tiny model."""
    cfg = tiny_cfg()
    meta = {**build_meta(cfg, None), "thing_classes": ["ellipse", "triangle", "star"]}
    model = build_model(cfg)
    for output in ("output/demo", "output/coins"):
        QueryInstCheckpointer(model, str(tmp_path / output), meta=meta).save("model_final")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for path in ("datasets/shapes/val/000000.png", "datasets/coins/val/coins.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / path)
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(noise)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PYTHON = [(name, i) for name in DOCUMENTS for i in range(len(blocks(name, "python")))]


@pytest.mark.parametrize("name, index", PYTHON)
def test_python_blocks_run(folder, name, index):
    source, namespace = blocks(name, "python")[index], {}
    if "from sahi" in source:
        pytest.importorskip("sahi.models.base", reason="the extra sahi", exc_type=ImportError)
    exec(compile(source, f"{name}, block {index}", "exec"), namespace)
    if "instances" in namespace:
        assert namespace["instances"].pred_masks.shape[1:] == (64, 96)


def test_the_readme_has_python_to_run():
    assert len([name for name, _ in PYTHON if name == "README.md"]) >= 2
