"""What a check of a data set finds: problems by kind, how many, and the first of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
NUM_EXAMPLES = 3  # of a kind that are kept
_VERBS = ("is ", "has ", "holds ", "cannot ")  # that messages about a whole source begin with


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        name: of `queryinst data check --json`, such as "rle-counts"; it does not change.
        severity: "error" if training or evaluation would fail or be wrong, "warning" for what is
            hardly meant, "note" for the rest.
        title: a line without values.
        advice: what to do about it.
    """

    name: str
    severity: Severity
    title: str
    advice: str


class Finding(NamedTuple):
    """One problem.

    Attributes:
        source: the annotation file, or the name of a registered data set.
        message: one line with file, id and value, without `source`.
        image_id, annotation_id: as they stand in the source; None for what is of neither.
        file_name: of the image, as it stands in the source; "" for none.
        position: in the list of annotations; -1 for what is of none.
    """

    source: str
    message: str
    image_id: Any = None
    annotation_id: Any = None
    file_name: str = ""
    position: int = -1

    @property
    def line(self) -> str:
        """The message with its source."""
        colon = "" if self.message.startswith(_VERBS) else ":"
        return f"{self.source}{colon} {self.message}"


class ProblemError(ValueError):
    """A value that cannot be meant; its text goes on after what names its place."""

    def __init__(self, kind: Kind, text: str):
        super().__init__(text)
        self.kind = kind


@dataclass
class Group:
    """All findings of a kind."""

    kind: Kind
    count: int = 0
    examples: list[Finding] = field(default_factory=list)  # the first NUM_EXAMPLES


class Findings:
    """Collects problems in bounded memory."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def add(self, kind: Kind, finding: Finding) -> None:
        group = self._groups.setdefault(kind.name, Group(kind))
        group.count += 1
        if len(group.examples) < NUM_EXAMPLES:
            group.examples.append(finding)

    def groups(self, severity: Severity | None = None) -> Iterator[Group]:
        """Errors first, then warnings, then notes, each in the order of their first finding."""
        for wanted in ("error", "warning", "note"):
            if severity in (None, wanted):
                yield from (x for x in self._groups.values() if x.kind.severity == wanted)

    def count(self, severity: Severity) -> int:
        return sum(group.count for group in self.groups(severity))
