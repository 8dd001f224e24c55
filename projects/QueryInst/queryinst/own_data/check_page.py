"""What a check found as one HTML page, which loads nothing from elsewhere."""

from ..environment import as_line, describe_versions
from ..report.page import page_environment
from .check import CheckResult
from .check_outputs import GENERATOR
from .check_pictures import draw_pictures
from .check_plots import class_chart, count_chart, size_chart
from .check_text import figures, legend, printable, verdict


def render_page(result: CheckResult, data: str) -> str:
    """
    Args:
        data: what was checked, as the user named it.
    """
    environment = page_environment("queryinst.own_data")
    environment.filters.update(printable=printable)
    parts = result.statistics
    return environment.get_template("check_page.html.jinja").render(
        generator=GENERATOR,
        data=data,
        result=result,
        groups=list(result.findings.groups()),
        verdict=verdict(result),
        figures=list(figures(result)) if parts else [],
        legend=legend(result),
        classes={part.name: list(part.classes()) for part in parts},
        charts=[
            ("Sides of objects in training", size_chart(parts)),
            ("Objects in an image", count_chart(parts, result.scale)),
            ("Objects of the classes", class_chart(parts)),
        ],
        pictures=draw_pictures(result),
        software=as_line(describe_versions()),
    )
