"""No file and no function grows beyond what a reader takes in at once."""

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("projects", "tools", "demo", "dev")
FILES = sorted(
    str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 40
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
LAYOUT |= {tokenize.INDENT, tokenize.DEDENT}


def lines_of_code(source: str) -> dict[str, int]:
    """Lines of every function by name, without comments, blank lines and its docstring."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    sizes = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines = set(range(node.lineno, node.end_lineno + 1))
            if ast.get_docstring(node) is not None:
                lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
            sizes[node.name] = max(len(lines & code), sizes.get(node.name, 0))
    return sizes


def test_lines_of_code_skips_comments_blank_lines_and_docstrings():
    source = (
        'def f():\n    """Two\n    lines."""\n\n    # why\n    x = """a\n    b"""\n    return x\n'
    )
    assert lines_of_code(source) == {"f": 4}


def test_files_and_functions_are_short():
    too_long = []
    for name in FILES:
        source = (ROOT / name).read_text()
        sizes = {"the file": len(source.splitlines())} | lines_of_code(source)
        for what, size in sizes.items():
            if size > (MAX_FILE_LINES if what == "the file" else MAX_FUNCTION_LINES):
                too_long.append(f"{name}: {what} has {size} lines")
    assert not too_long, "\n".join(too_long)
