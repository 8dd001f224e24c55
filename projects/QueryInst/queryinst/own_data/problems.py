"""What is wrong with label files: collected for a check, or raised as one line."""

import logging

from ..data.findings import Finding, Findings, Kind

_logger = logging.getLogger(__name__)

BAD_FILE = Kind(
    "label-file", "error", "label files that cannot be read", "mend them, or annotate anew"
)
BAD_VALUE = Kind(
    "label-value",
    "error",
    "objects with values that cannot be meant",
    "correct or remove the named line, shape or id",
)
UNKNOWN_CLASS = Kind(
    "label-class",
    "error",
    "objects of a class that has no name",
    "add the class to the list of names, or correct the object",
)
NO_MASK = Kind(
    "label-box",
    "error",
    "objects with a box alone, without a mask",
    "annotate outlines; a model that draws masks cannot learn from boxes",
)
NO_IMAGE = Kind(
    "label-without-image",
    "error",
    "label files whose image is missing",
    "put the images there, or remove the label files",
)
NO_LABELS = Kind(
    "image-without-labels",
    "warning",
    "images without a label file, which are left out",
    "annotate them; an image without objects needs a label file too",
)
NO_AREA = Kind(
    "label-shape",
    "warning",
    "points and lines, which have no area and are left out",
    "draw them as polygons if they are objects",
)
ONE_ID = Kind(
    "label-parts",
    "warning",
    "label images with one id for all, in several parts: one object each",
    "number the objects from 1, if each part is one",
)


class Problems:
    """The problems of one reading."""

    def __init__(self, data: str, findings: Findings | None):
        """
        Args:
            data: what is read, as the user named it.
            findings: get all problems; None to raise or log them in `conclude`.
        """
        self._data = data
        self._is_asked = findings is not None
        self.findings = Findings() if findings is None else findings

    def add(self, kind: Kind, source: str, message: str, file_name: str = "") -> None:
        """
        Args:
            source: the label file, or the folder.
            message: the rest of a line, with the place in the file and the value.
        """
        self.findings.add(kind, Finding(source, message, file_name=file_name))

    def conclude(self) -> None:
        """Raise the first error, and log warnings, unless findings were asked for.

        Raises:
            ValueError: one line, which says how many more there are.
        """
        if self._is_asked:
            return
        for group in self.findings.groups("error"):
            first = group.examples[0]
            num_more = self.findings.count("error") - 1
            more = f" (and {num_more} more, which `queryinst data check` lists)" if num_more else ""
            raise ValueError(f"{_say(first)}{more}; {group.kind.advice}")
        for group in self.findings.groups("warning"):
            title, example = group.kind.title, _say(group.examples[0])
            _logger.warning(f"{self._data}: {group.count} {title}, first {example}")


def _say(finding: Finding) -> str:
    if finding.source in finding.message:
        return finding.message
    return f"{finding.source}: {finding.message}"
