"""What is wrong with label files: collected for a check, or raised as one line."""

from ..data.checks import log_warnings, raise_errors
from ..data.findings import Finding, Findings, Kind

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
NO_TEST = Kind(
    "test-part-missing",
    "warning",
    "parts for testing that are named, but not there",
    "remove 'test' from data.yaml, or put its images there",
)
SHARED_LABELS = Kind(
    "label-shared",
    "warning",
    "images whose names differ by the suffix alone, so that they have the same label file",
    "rename the images, or remove those that are not meant",
)
NO_LABELS = Kind(
    "image-without-labels",
    "warning",
    "images without a label file, which are left out",
    "annotate them; an image without objects needs a label file too",
)
EMPTY = Kind(
    "data-empty",
    "error",
    "data sets without images or without objects",
    "name the folder that has them",
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
ONE_CLASS = Kind(
    "label-images-one-class",
    "note",
    "label images without names of classes, so that all objects are of one class",
    "if there are more, write names.csv with the columns id and class beside the folder of images,"
    " or make a folder for each class",
)
VOID = Kind(
    "label-void",
    "warning",
    "label images with the number 255 far above all others, which may mean pixels that count"
    " nowhere; here they are an object",
    "set them to 0, or number the objects from 1 without gaps if it is one",
)


class Problems:
    """The problems of one reading."""

    def __init__(self, findings: Findings | None):
        """
        Args:
            findings: get all problems; None to raise or log them in `conclude`.
        """
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
            ValueError, FileNotFoundError: one line, which says how many more there are.
        """
        if not self._is_asked:
            raise_errors(self.findings)
            log_warnings(self.findings)
