"""The HTML page of a run: one file, nothing loaded from elsewhere."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from .curves import Series, line_chart

_TASKS = {"segm": "mask", "bbox": "box"}
_METRICS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
}
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 32px 24px 64px; background: #fff; color: #1f2328;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 40px 0 8px; padding-bottom: 6px; border-bottom: 1px solid #d0d7de; }
p { margin: 8px 0; max-width: 78ch; }
.note, figcaption, .axis { color: #57606a; fill: #57606a; }
.note, figcaption { font-size: 14px; }
.figures { display: flex; flex-wrap: wrap; gap: 16px; margin: 20px 0 8px; }
.figure { border: 1px solid #d0d7de; border-radius: 8px; padding: 12px 20px; min-width: 150px; }
.figure b { display: block; font-size: 32px; line-height: 1.2; }
.figure span { font-size: 14px; color: #57606a; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; text-align: right; border-bottom: 1px solid #e4e8ec; }
th { font-weight: 600; background: #f6f8fa; }
th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; overflow-wrap: anywhere; }
th small { display: block; font-weight: 400; color: #57606a; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 24px; }
svg { width: 100%; height: auto; display: block; }
svg .grid { stroke: #e4e8ec; }
svg text { font-size: 12px; font-family: inherit; }
svg .name { font-weight: 600; }
.pictures { display: grid; gap: 20px;
  grid-template-columns: repeat(auto-fill, minmax(520px, 1fr)); }
@media (max-width: 600px) { .pictures, .columns { grid-template-columns: 1fr; } }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
.classes { max-height: 480px; overflow: auto; display: inline-block; }
pre { background: #f6f8fa; padding: 16px; overflow: auto; font-size: 13px; border-radius: 8px; }
"""


class Picture(NamedTuple):
    """One image of the grid."""

    pair: np.ndarray  # (H, W, 3) RGB
    caption: str
    png_path: str  # relative to the page


class Found(NamedTuple):
    """How many objects of a data set were found, at IoU 0.5."""

    num_found: int
    num_objects: int
    num_extra: int  # predictions that found no object
    min_score: float  # of the predictions that count
    is_score_chosen: bool  # by best_threshold, not by the user


class Page(NamedTuple):
    """All that the page shows; texts are plain, and escaped here."""

    title: str
    summary: str
    dataset_name: str
    results: Mapping[str, Mapping[str, float | None]]  # task -> metric -> percent
    found: Found
    losses: Sequence[Series]
    aps: Sequence[Series]
    pictures: Sequence[Picture]
    num_images: int  # of the data set
    settings: Sequence[tuple[str, str]]
    config_text: str


def render(page: Page) -> str:
    """The page as HTML."""
    body = [
        f"<h1>{escape(page.title)}</h1>",
        f"<p>{escape(page.summary)}</p>",
        _headline(page),
        "<h2>Average precision</h2>",
        _metric_table(page.results),
        _class_table(page.results),
        f'<p class="note">{escape(_measured(page))}</p>',
        "<h2>Training</h2>",
        '<div class="columns">',
        "<div><p>Losses, each summed over the stages (logarithmic)</p>"
        f"{line_chart(page.losses, 'Losses', log=True)}</div>",
        f"<div><p>AP on {escape(page.dataset_name)}, in percent</p>"
        f"{line_chart(page.aps, 'AP', y_max=100)}</div>",
        "</div>",
        "<h2>Held-out images: ground truth (left), predictions (right)</h2>",
        f'<p class="note">{escape(_legend(page))}</p>',
        '<div class="pictures">',
        *(_figure(picture) for picture in page.pictures),
        "</div>",
        "<h2>Settings</h2>",
        _settings_table(page.settings),
        "<details><summary>The whole configuration</summary>"
        f"<pre>{escape(page.config_text)}</pre></details>",
    ]
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def per_class(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Class name -> AP, of a task's metrics ("AP-name")."""
    return {key[3:]: value for key, value in metrics.items() if key.startswith("AP-")}


def number(value: float | None) -> str:
    """One decimal; a dash where there was nothing to measure."""
    return "–" if value is None or value != value else f"{value:.1f}"


def _headline(page: Page) -> str:
    figures = [
        (number(page.results[task].get("AP")), f"{name} AP")
        for task, name in _TASKS.items()
        if task in page.results
    ]
    found = page.found
    how = f"objects found (IoU 0.5, score ≥ {found.min_score:g}), {found.num_extra} more predicted"
    figures.append((f"{found.num_found} of {found.num_objects}", how))
    cells = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in figures
    )
    return f'<div class="figures">{cells}</div>'


def _metric_table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    head = "".join(f"<th>{name}<small>{text}</small></th>" for name, text in _METRICS.items())
    rows = [
        f"<tr><td>{name}</td>"
        + "".join(f"<td>{number(results[task].get(metric))}</td>" for metric in _METRICS)
        + "</tr>"
        for task, name in _TASKS.items()
        if task in results
    ]
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _class_table(results: Mapping[str, Mapping[str, float | None]]) -> str:
    by_task = {task: per_class(results[task]) for task in _TASKS if task in results}
    names = list(dict.fromkeys(name for classes in by_task.values() for name in classes))
    if not names:  # COCO's evaluation leaves a single class out
        return ""
    head = "".join(f"<th>{_TASKS[task]} AP</th>" for task in by_task)
    rows = [
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{number(by_task[task].get(name))}</td>" for task in by_task)
        + "</tr>"
        for name in names
    ]
    table = f"<table><tr><th>class</th>{head}</tr>{''.join(rows)}</table>"
    return f'<div class="classes">{table}</div>'


def _measured(page: Page) -> str:
    return (
        f"Percent, by COCO's evaluation, on all images of {page.dataset_name}, by the weights at"
        " the end of the training. AP averages the precision over recall, over"
        " classes, and over the overlaps (IoU 0.50, 0.55, ... 0.95) that a detection must reach to"
        " count. The threshold of the pictures plays no part in it."
    )


def _legend(page: Page) -> str:
    shown = len(page.pictures)
    which = f"{shown} of {page.num_images} images, at equal distances in the data set, not picked."
    if shown == page.num_images:
        which = f"All images of {page.dataset_name}."
    score = f"score of at least {page.found.min_score:g}"
    if page.found.is_score_chosen:
        score += ", at which precision and recall on this data set balance best (F1)"
    return (
        f"{which} Predictions with a {score}. A prediction has the colour of the object that it"
        " found (same class, IoU at least 0.5); a red outline found none, or one that was found"
        " already."
    )


def _figure(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.pair).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = picture.pair.shape[:2]
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
        f' alt="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}<br>{escape(picture.png_path)}</figcaption></figure>"
    )


def _settings_table(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="text">{escape(value)}</td></tr>'
        for name, value in settings
    )
    return f"<table>{rows}</table>"
