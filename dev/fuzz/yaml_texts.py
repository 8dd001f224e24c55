"""Yaml and words of a command line that nobody means well with.

@MARK@ is a folder that must not appear; @TINY@ a file, @HERE@ and @CONFIGS@ folders that are there.
"""

from typing import Any

import yaml

_CALL = "!!python/object/apply:os.mkdir ['@MARK@']"
FRAGMENTS = [
    _CALL,
    f"[{_CALL}, 1]",
    "{x: %s}" % _CALL,
    "!!python/object/new:os.mkdir ['@MARK@']",
    '!!python/object/apply:eval [\'__import__("os").mkdir("@MARK@")\']',
    "!!python/object/apply:os.system ['mkdir @MARK@']",
    "!!python/object/apply:subprocess.check_output [[mkdir, '@MARK@']]",
    "!!python/object/new:tuple [!!python/object/new:map [!!python/name:os.mkdir , ['@MARK@']]]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:queryinst.structures.WholeBatch {}",
    "!!python/tuple [1, 2]",
    "!!python/complex 1j",
    "!!binary aGVsbG8=",
    "!!binary '*'",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a: 1]",
    "!!timestamp x",
    "!!int x",
    "!!float x",
    "!!bool x",
    "!!null x",
    "!unknown x",
    "!!str {}",
    "2020-01-01",
    "2020-13-45",
    "2020-01-01 25:61:61",
    "190:20:30",
    "0x",
    "0o17",
    "017",
    "1_000",
    ".nan",
    ".inf",
    "1e400",
    "=",
    "~",
    "",
    "'",
    "*nowhere",
    "&a [*a]",
    "&a {x: *a}",
    "{<<: 5}",
    "{<<: [1, 2]}",
    "{? [a, b] : 1}",
    "{? {a: 1} : 1}",
    "{1: 2, null: 3, 1.5: 4}",
    "{a: 1, a: 2}",
    "[1, [2, [3, [4]]]]",
    "\t1",
    "|\n  text\n  of lines",
    "@deep:150@",
    "@deep:3000@",
    "@deep:100000@",
    "@digits:4000@",
    "@digits:5000@",
    "'@{'",
    '"\\ud800"',
    '"\\0"',
]


def _bomb(levels: int, closing: str) -> str:
    """Aliases of aliases: a kilobyte that stands for 9 ** levels items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join(9 * [f'*a{level - 1}'])}]")
    return "\n".join([*lines, closing.format(levels - 1)])


def _mapping_bomb(levels: int) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for level in range(1, levels):
        lines.append(
            f"a{level}: &a{level} {{" + ", ".join(f"k{i}: *a{level - 1}" for i in range(9)) + "}"
        )
    return "\n".join([*lines, f"MODEL: *a{levels - 1}"])


_MERGES = "\n".join(
    ["a0: &a0 {x: 1}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join(9 * [f'*a{n - 1}'])}]}}" for n in range(1, 12)]
)
DOCUMENTS = [
    "",
    "\n\n",
    "#",
    "---\n---\n",
    "a: 1\n---\nb: 2\n",
    "5",
    "[]",
    "text",
    "null",
    "{}",
    "{1: 2}",
    "{null: 2}",
    "? [a]\n: 1\n",
    "MODEL: 5\n",
    "MODEL: []\n",
    "MODEL:\n",
    "MODEL: {QUERYINST: {}}\n_BASE_: @TINY@\n",
    "MODEL: {1: 2}\n",
    "{" * 2000,
    "a: {" * 400,
    "- " * 3000,
    "? " * 3000,
    "\x00\x01\x02",
    "%YAML 9.9\n---\na: 1\n",
    "%TAG ! tag:yaml.org,2002:python/\n---\nSEED: !object/apply:os.mkdir ['@MARK@']\n",
    f"{_CALL}",
    f"? {_CALL}\n: 1\n",
    f"- {_CALL}\n",
    f"a: 1\n--- {_CALL}\n",
    "_BASE_: @TINY@\n_BASE_: @CONFIGS@/nowhere.yaml\n",
    _bomb(9, "SEED: *a{}"),
    _bomb(30, "MODEL: {{QUERYINST: {{SPEEDUPS: *a{}}}}}"),
    _bomb(8, "_BASE_: *a{}"),
    _mapping_bomb(9),
    _MERGES,
    "a: &a [" + "*a, " * 200 + "1]\n",
    "SEED: 1\n" * 5000,
    "\n".join(f"KEY{n}: {n}" for n in range(3000)),
    "x" * 200000,
    "'" + "x" * 200000,
    "key: " + '"' + "\\" * 9999 + '"',
]
BASES = [
    "http://127.0.0.1:9/x.yaml",
    "https://example.com/x.yaml",
    "HTTP://example.com/x.yaml",
    "ftp://example.com/x.yaml",
    "s3://bucket/x.yaml",
    "detectron2://x.yaml",
    "queryinst://x.yaml",
    "catalog://x",
    "file:///etc/hostname",
    "main.yaml",
    "./main.yaml",
    "other.yaml",
    "@HERE@/main.yaml",
    "[other.yaml, '@TINY@']",
    "['http://example.com/x.yaml']",
    "[main.yaml]",
    "[]",
    "{a: b}",
    "5",
    "null",
    "true",
    "''",
    "'.'",
    "/",
    "'~'",
    "~/nowhere.yaml",
    "nowhere.yaml",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    '"\\0"',
    "x" * 5000,
    "é☃.yaml",
    _CALL,
    "@CONFIGS@",
    "[[[]]]",
]
WORDS = [
    "",
    " ",
    "--help",
    "--opts",
    "=",
    "SEED=3",
    "MODEL",
    "MODEL.",
    ".",
    "..",
    "MODEL.QUERYINST",
    "MODEL..WEIGHTS",
    "model.weights",
    "MODEL.WEIGHTS.X",
    "MODEL.QUERYINST.NUM_QUERIES.X",
    "_BASE_",
    "x\x00y",
    "é☃",
    "(" * 90,
    "(" * 3000,
    "[" * 30000,
    "-" * 5000 + "1",
    "not " * 3000 + "1",
    "{'a': 1}",
    "{'a': 1, 'b'",
    "{[]: 1}",
    "1e999",
    "1" * 4000,
    "1" * 5000,
    "0x" + "f" * 5000,
    "10**400",
    "__import__('os').mkdir('@MARK@')",
    "(1, 2",
    "[nan]",
    "{1, 2}",
    "b'x'",
    "...",
    "1j",
    "'a' 'b'",
    "f'{1}'",
    "lambda: 1",
    "\\",
    "'\\ud800'",
    "\n",
    "1\n2",
    "x" * 5000,
]


def nested(key: tuple[str, ...], fragment: str) -> str:
    """The key with this yaml as its value, in one line for the sections."""
    *sections, name = key
    if "\n" in fragment or not sections:
        lines = [f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections)]
        return "".join(lines) + f"{'  ' * len(sections)}{name}: {fragment}\n"
    opening = "".join(f"{section}: {{" for section in sections)
    return f"{opening}{name}: {fragment}{'}' * len(sections)}\n"


def to_yaml(tree: dict[str, Any]) -> str:
    """The tree's text; strings that look like tags or numbers stay strings."""
    return yaml.safe_dump(tree, allow_unicode=True)
