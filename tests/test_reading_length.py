"""How much a reader of the algorithm has to read: what the plain model passes, counted as it runs.

`python tests/test_reading_length.py` prints the files.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import queryinst
from queryinst.testing import random_batch, tiny_cfg

PACKAGE = Path(queryinst.__file__).parent


class Passed(NamedTuple):
    """What a call passes of one file of the package, in lines."""

    whole_file: int
    functions: int  # those called, with signature and docstring


def passed_by(call: Callable[[], object]) -> dict[str, Passed]:
    """Run ``call`` and return what it passes, by the file's path in the package."""
    entered: set[CodeType] = set()

    def remember(frame, event, argument):
        if event == "call":
            entered.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(remember)
    try:
        call()
    finally:
        sys.setprofile(before)
    return measure(entered)


def measure(entered: set[CodeType]) -> dict[str, Passed]:
    lines_passed: dict[Path, set[int]] = {}
    for code in entered:
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE):
            lines = lines_passed.setdefault(path, set())
            if not code.co_name.startswith("<"):  # comprehensions lie within a function
                source, start = inspect.getsourcelines(code)
                lines |= set(range(start, start + len(source)))
    return {
        str(path.relative_to(PACKAGE)): Passed(len(path.read_text().splitlines()), len(lines))
        for path, lines in sorted(lines_passed.items())
    }


def plain_model():
    return build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=()))


@functools.cache
def inference() -> dict[str, Passed]:
    model = plain_model().eval()
    inputs = [{**x, "height": 48, "width": 72} for x in random_batch((2, 1))]
    return passed_by(lambda: model(inputs))


@functools.cache
def training(with_backward: bool = False) -> dict[str, Passed]:
    model, inputs = plain_model(), random_batch((2, 1))

    def step():
        losses = model(inputs)
        if with_backward:
            sum(losses.values()).backward()

    with EventStorage():
        return passed_by(step)


def table(passed: dict[str, Passed]) -> str:
    rows = [f"{'lines':>6} {'of functions':>13}  file"]
    rows += [f"{x.whole_file:6} {x.functions:13}  {name}" for name, x in passed.items()]
    sums = (sum(column) for column in zip(*passed.values()))
    rows.append("{:6} {:13}  in {} files".format(*sums, len(passed)))
    return "\n".join(rows)


def check(passed: dict[str, Passed], max_files: int, max_lines: int) -> None:
    assert "modeling/meta_arch.py" in passed  # it counts something
    num_lines = sum(x.whole_file for x in passed.values())
    assert len(passed) <= max_files and num_lines <= max_lines, "\n" + table(passed)


def test_measure_counts_whole_files_and_the_functions_entered():
    path = PACKAGE / "precision.py"
    code = compile(path.read_text(), str(path), "exec")
    functions = {x.co_name: x for x in code.co_consts if isinstance(x, CodeType)}
    at_least_fp32 = functions["at_least_fp32"]
    num_lines = len(inspect.getsource(queryinst.precision.at_least_fp32).splitlines())
    passed = measure({at_least_fp32, check.__code__})
    assert passed == {"precision.py": Passed(len(path.read_text().splitlines()), num_lines)}


def test_passed_by_sees_what_is_called_below():
    model = plain_model()
    passed = passed_by(lambda: model.eval())
    assert set(passed) == {"modeling/meta_arch.py", "modeling/backbone.py"}
    assert sys.getprofile() is None


def test_forward_in_inference_passes_few_files_and_lines():
    check(inference(), max_files=10, max_lines=1200)


def test_forward_in_training_passes_few_files_and_lines():
    check(training(), max_files=13, max_lines=1600)


def test_speedups_are_not_entered_by_the_plain_model():
    passed = [*inference(), *training(with_backward=True)]
    assert [name for name in passed if name.startswith("speedups/")] == []


if __name__ == "__main__":
    print(f"inference:\n{table(inference())}\n\ntraining:\n{table(training())}")
