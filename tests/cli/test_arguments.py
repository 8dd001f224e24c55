import importlib.util
import subprocess
import sys

import pytest

from queryinst.convert.convert_checkpoint import LAYOUTS as LAYOUTS_OF_CONVERT
from queryinst.predict.loading import find_weights
from queryinst_cli import arguments, main
from queryinst_cli.arguments import DEFAULT_MODEL, JOBS, LAYOUTS, overview, parse
from queryinst_cli.data_arguments import DATA_JOBS
from queryinst_cli.values import end_lists

# Whatever is not in the standard library cannot be imported.
ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and root != "queryinst_cli":
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Blocked())
from queryinst_cli import main
for words in {lines!r}:
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code
    print("status", status)
"""


def test_main_reads_arguments_with_the_standard_library_alone():
    right = [[], ["--help"], ["data"], *([job, "--help"] for job in JOBS)]
    right += [["data", job, "--help"] for job in DATA_JOBS]
    wrong = [["foo"], ["predict"], ["predict", "a", "--score", "2"], ["env", "x"]]
    wrong += [["eval", "data"], ["export", "m", "o", "--size", "8"], ["convert", "a"], ["report"]]
    wrong += [["data", "foo"], ["data", "--foo"], ["data", "check"]]
    program = ALONE.replace("{lines!r}", repr(right + wrong))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    statuses = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["0"] * len(right) + ["2"] * len(wrong)
    lines = done.stderr.splitlines()
    assert len(lines) == len(wrong) and all(line.startswith("queryinst") for line in lines)


def test_overview_has_an_example_of_each_job_which_is_understood():
    text = overview()
    for name, job in JOBS.items():
        assert job.example in text and job.summary in text
        words = job.example.split()
        assert words[:2] == ["queryinst", name]
        assert parse(name, words[2:])


def test_data_alone_has_an_example_of_each_of_its_jobs_which_is_understood(capsys):
    with pytest.raises(SystemExit) as error:
        parse("data", [])
    text = capsys.readouterr().out
    assert not error.value.code and text.startswith("usage: queryinst data JOB")
    for name, job in DATA_JOBS.items():
        assert job.example in text and job.summary in text
        words = job.example.split()
        assert words[:3] == ["queryinst", "data", name]
        assert parse("data", words[2:]).job == name


def test_parse_takes_the_last_of_what_is_merged_as_the_target():
    args = parse("data", "merge a b c d --link".split())
    assert args.data == ["a", "b", "c"] and args.target == "d" and args.link


def test_defaults_are_those_of_the_package():
    assert LAYOUTS == LAYOUTS_OF_CONVERT
    assert find_weights(DEFAULT_MODEL).startswith("queryinst://")
    assert parse("predict", ["a"]).model == DEFAULT_MODEL


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--opts A.B 1 --output x", ["--opts=A.B", "--opts=1", "--output", "x"]),
        ("--opts A -1 C_D 2 a.jpg", ["--opts=A", "--opts=-1", "--opts=C_D", "--opts=2", "a.jpg"]),
        ("--opts A", ["--opts", "A"]),
        ("--save coco csv a.jpg", ["--save=coco", "--save=csv", "a.jpg"]),
        ("--save", ["--save"]),
        ("-- --save coco", ["--", "--save", "coco"]),
    ],
)
def test_end_lists(words, expected):
    assert end_lists(words.split()) == expected


def test_parse_lets_lists_end_where_they_do():
    words = "a.jpg --opts A.B -1 C (2,3) b.jpg --save coco csv c.jpg --output x --opts D 4"
    args = parse("predict", words.split())
    assert args.inputs == ["a.jpg", "b.jpg", "c.jpg"] and args.output == "x"
    assert args.opts == ["A.B", "-1", "C", "(2,3)", "D", "4"] and args.save == ["coco", "csv"]


@pytest.mark.parametrize(
    "words, text",
    [
        ("predict a --score nan", "'nan' must be a number in [0, 1]"),
        ("predict a --batch 0", "'0' must be a whole number from 1"),
        ("predict a --slice 1.5", "'1.5' must be"),
        ("predict a --slice 9 --overlap 1", "'1' must be a number from 0 to less than 1"),
        ("predict a --overlap 0.1", "add --slice"),
        ("predict a --save jpg", "'jpg'"),
        ("predict a --opts A", "pairs of KEY VALUE"),
        ("predict a --scor 1", "--scor"),
        ("export m o --size 800x0", "'800x0' must be HEIGHTxWIDTH"),
        ("export m o --size 8x8 --dynamic", "not allowed with"),
        ("eval d", "--model"),
        ("data checks d", "no job 'checks'; the jobs are check, convert, split, show, merge"),
        ("data convert a b", "queryinst data convert: error: the following arguments are required"),
        ("data convert a b --to voc", "'voc'"),
        ("data split a b --val 1", "'1' must be a number from 0 to less than 1"),
        ("data split a b --seed -1", "--seed"),
        ("data merge a", "DST"),
        ("data check a --workers 0", "'0' must be a whole number from 1"),
        ("train d --epochs 0", "'0' must be a whole number from 1"),
        ("train d --epochs 1 --iterations 2", "not allowed with"),
    ],
)
def test_main_refuses_arguments_in_one_line(capsys, words, text):
    try:
        status = main(words.split())
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and text in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "error, expected",
    [
        (ValueError("two\nlines"), (1, "two lines")),
        (KeyError("no key 'A'"), (1, "no key 'A'")),
        (MemoryError(), (1, "MemoryError")),
        (KeyboardInterrupt(), (130, "interrupted")),
    ],
)
def test_main_says_in_one_line_what_failed(capsys, monkeypatch, error, expected):
    from queryinst_cli import env

    def fail(args):
        raise error

    monkeypatch.setattr(env, "run", fail)
    status, text = expected
    assert main(["env"]) == status
    err = capsys.readouterr().err
    assert err.startswith("queryinst env: ") and err.endswith(f"{text}\n") and err.count("\n") == 1


def test_every_job_has_a_module():
    for name in JOBS:
        assert callable(getattr(__import__(f"queryinst_cli.{name}", fromlist=["run"]), "run"))
    for name in DATA_JOBS:
        assert importlib.util.find_spec(f"queryinst_cli.data_{name}")
    assert arguments.overview().count("\n") < 30


def test_python_m_queryinst_is_the_command_and_warns_of_nothing():
    command = [sys.executable, "-m", "queryinst"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{overview()}\n", "")


@pytest.mark.parametrize("job", ["eval", "predict", "train"])
def test_a_job_warns_of_nothing_on_import(tmp_path, job):
    script = "import sys; from queryinst_cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, job, "nowhere", "--model", "none.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert all(line.startswith(("queryinst", "left out")) for line in done.stderr.splitlines())


def test_the_overview_ends_in_silence_where_nobody_reads_it(tmp_path):
    script = "import sys, time; time.sleep(0.3); from queryinst_cli import main; sys.exit(main([]))"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
