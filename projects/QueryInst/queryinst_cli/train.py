"""`queryinst train`."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from queryinst.engine import train_net
from queryinst.engine.checks import check_output_dir
from queryinst.engine.run_lock import locked
from queryinst.recipe import text
from queryinst.recipe.checking import check_parts
from queryinst.recipe.derived import counted
from queryinst.recipe.folder import (
    CONFIG,
    RECIPE,
    digest_of,
    refuse_finished,
    resume,
    weights_to_predict,
    write_recipe,
)
from queryinst.recipe.machine import find_machine
from queryinst.recipe.parts import Parts, find_parts
from queryinst.recipe.planning import Plan, Triple, make_plan, triples_of
from queryinst.recipe.situation import Machine, Request
from queryinst.report import make_report, report_text

_PROGRAM = "queryinst train"
_DRY = "--dry-run: nothing was trained or written"
_DEVICE = "MODEL.DEVICE"


def run(args: argparse.Namespace) -> int:
    """Check, derive, train, evaluate and report.

    Returns:
        The exit status, as train_net.py's.
    """
    refuse_finished(args.output, resume=args.resume)
    resumes = args.resume and Path(args.output, RECIPE).exists()
    parts = find_parts(args.data, args.val, None if args.dry_run or resumes else args.output)
    if resumes:
        return _go_on(args, parts)
    _say(*[f"nothing to go on with in {args.output}: this training begins"] * args.resume)
    checked = check_parts(parts, args.opts)
    _say(*filter(None, [checked.text]))
    if checked.num_errors:
        raise ValueError(
            f"{counted(checked.num_errors, 'error')} in the data, see above; `queryinst data check"
            f" {args.data}` has more, and its --fix mends what needs no guess"
        )
    machine = find_machine(args.device or dict(zip(args.opts[::2], args.opts[1::2])).get(_DEVICE))
    request = _request(args, parts)
    writes = not args.dry_run
    plan = make_plan(parts, machine, request, data=args.data, output=args.output, writes=writes)
    _say_plan(args, plan, machine)
    if args.dry_run:
        return 0
    check_output_dir(plan.cfg.OUTPUT_DIR)
    with locked(plan.cfg.OUTPUT_DIR):
        path = write_recipe(plan.cfg, request, plan.derived)
    _say("the same training without the recipe:", f"  {text.same_run(path, plan.triples)}", "")
    return _train(args.output, path, plan.triples)


def _say_plan(args: argparse.Namespace, plan: Plan, machine: Machine) -> None:
    rows = {
        "data": f"{args.data}: {text.data_line(plan.train, plan.val)}",
        "model": text.model_line(plan.start, machine),
        "output": args.output,
    }
    _say(*(f"{name:7} {line}" for name, line in rows.items()), *(f"note: {x}" for x in plan.notes))
    _say("", text.keys_table(plan.derived, plan.cfg, args.opts), "")
    _say(*[_DRY] * args.dry_run)


def _go_on(args: argparse.Namespace, parts: Parts) -> int:
    cfg, opts = resume(args.output, _request(args, parts))
    opts += [_DEVICE, args.device] if args.device else []
    path = os.path.join(args.output, CONFIG)
    triples = triples_of(parts, cfg, args.output)
    _say(f"going on with {path}")
    if args.dry_run:
        _say(_DRY)
        return 0
    return _train(args.output, path, triples, resumes=True, opts=opts)


def _train(
    output: str,
    config_file: str,
    triples: Sequence[Triple],
    *,
    resumes: bool = False,
    opts: Sequence[str] = (),
) -> int:
    run_args = argparse.Namespace(
        config_file=config_file,
        opts=list(opts),
        resume=resumes,
        eval_only=False,
        dataset=[list(triple) for triple in triples],
        num_gpus=1,
    )
    if status := train_net.run(run_args, _PROGRAM):
        return status
    report = make_report(output)
    weights = weights_to_predict(output)
    words = ["queryinst", "predict", triples[1][2], "--model", weights]
    words += ["--score", f"{report.counts.min_score:g}"]
    _say("", report_text(report), f"predict: {shlex.join(words)}")
    return 0


def _request(args: argparse.Namespace, parts: Parts) -> Request:
    return Request(
        digests=(
            digest_of(parts.train.json_file),
            digest_of(parts.val.json_file if parts.val else ""),
        ),
        model=args.model,
        epochs=args.epochs,
        iterations=args.iterations,
        batch=args.batch,
        opts=tuple(args.opts),
    )


def _say(*lines: str) -> None:
    if lines:
        print(*lines, sep="\n", flush=True)
