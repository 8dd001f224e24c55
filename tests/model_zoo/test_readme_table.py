"""The model zoo's tables in the project's README say what models.yaml says."""

import re
from pathlib import Path

from queryinst.model_zoo import load_models
from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML

README = Path(__file__).resolve().parents[2] / "projects/QueryInst/README.md"
TABLE = re.compile(r"^\| configuration \| queries .*\n\|[ :|-]+\n((?:\|.*\n)+)", re.MULTILINE)


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def row_of(entry):
    recipe, published = entry.recipe, entry.published
    crops = ", crops" if recipe.crop else ""
    return [
        f"[{Path(entry.config).stem}](../../configs/{entry.config})",
        str(recipe.queries),
        f"{recipe.epochs} epochs, short side {recipe.short_side}{crops}",
        f"{entry.parameters / 1e6:.1f} M",
        f"{published.box_ap:.1f}",
        f"{published.mask_ap:.1f}",
        f"`{entry.checkpoint_url}`" if entry.url else "no stable address",
    ]


def test_readme_has_each_publishers_models_and_says_who_published_the_ap():
    entries = load_models(PACKAGED_MODELS_YAML)
    tables = list(TABLE.finditer(README.read_text()))
    publishers = list(dict.fromkeys(entry.published.by for entry in entries))
    assert len(tables) == len(publishers) == 2
    for table, by in zip(tables, publishers):
        header = cells(table[0].split("\n")[0])
        assert header[4:6] == [f"box AP, published by {by}", f"mask AP, published by {by}"]
        rows = [cells(line) for line in table[1].splitlines()]
        assert rows == [row_of(entry) for entry in entries if entry.published.by == by]


def test_readme_links_configurations_that_are_there():
    links = re.findall(r"^\| \[queryinst_\w+\]\((.+?)\)", README.read_text(), re.MULTILINE)
    assert len(links) == len(load_models(PACKAGED_MODELS_YAML))
    assert all((README.parent / link).is_file() for link in links)
