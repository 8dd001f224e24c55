"""`queryinst train`."""

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from queryinst.engine import train_net
from queryinst.engine.checks import check_output_dir, check_run
from queryinst.engine.run_lock import locked
from queryinst.json_files import read_json
from queryinst.own_data.image_files import is_image
from queryinst.recipe import text
from queryinst.recipe.checking import check_parts
from queryinst.recipe.folder import (
    CONFIG,
    begun,
    can_go_on,
    digest_of,
    refuse_data_inside,
    refuse_others_files,
    resume,
    weights_to_predict,
    write_recipe,
)
from queryinst.recipe.holding_out import write_held
from queryinst.recipe.machine import find_machine
from queryinst.recipe.parts import Parts, find_parts
from queryinst.recipe.planning import Plan, Triple, check_request, make_plan, triples_of
from queryinst.recipe.structures import Machine, Request
from queryinst.report import make_report, report_text
from queryinst.wording import counted

_PROGRAM = "queryinst train"
_DEVICE = "MODEL.DEVICE"


class _Run(NamedTuple):
    """What train_net.py takes."""

    config_file: str
    triples: Sequence[Triple]
    resumes: bool = False
    opts: Sequence[str] = ()


def run(args: argparse.Namespace) -> int:
    """Check, derive, train, evaluate and report.

    Returns:
        The exit status, as train_net.py's.
    """
    refuse_others_files(args.output, resume=args.resume)
    refuse_data_inside(args.output, args.data, args.val)
    goes_on = args.resume and can_go_on(args.output)
    prepare = _go_on if goes_on else _begin
    if args.dry_run:
        prepare(args)
        _say("--dry-run: nothing was trained or written")
        return 0
    check_output_dir(args.output, "--output")
    with locked(args.output):  # so that no other run's files are replaced
        with nullcontext() if goes_on else begun(args.output):
            prepared = prepare(args)
    return _train(args.output, prepared)


def _begin(args: argparse.Namespace) -> _Run:
    _say(*[f"nothing to go on with in {args.output}: this training begins"] * args.resume)
    check_request(_request(args))
    machine = find_machine(args.device or dict(zip(args.opts[::2], args.opts[1::2])).get(_DEVICE))
    parts = find_parts(args.data, args.val, None if args.dry_run else args.output)
    checked = check_parts(parts, args.opts)
    _say(*filter(None, [checked.text]))
    if checked.num_errors:
        raise ValueError(
            f"{counted(checked.num_errors, 'error')} in the data, see above; `queryinst data check"
            f" {args.data}` has more, and its --fix mends what needs no guess"
        )
    request = _request(args, parts)
    plan = make_plan(parts, machine, request, data=args.data, output=args.output)
    if args.dry_run:  # else the run itself does
        check_run(plan.cfg, training=True)
    _say_plan(args, plan, machine)
    path = os.path.join(args.output, CONFIG)
    if not args.dry_run:
        if plan.held:
            write_held(plan.held)
        write_recipe(plan.cfg, request, plan.derived)
        _say("the same training without the recipe:", f"  {text.same_run(path, plan.triples)}", "")
    return _Run(path, plan.triples)


def _say_plan(args: argparse.Namespace, plan: Plan, machine: Machine) -> None:
    is_same = plan.triples[0][1:] == plan.triples[1][1:]
    rows = {
        "data": f"{args.data}: {text.data_line(plan.train, plan.val, is_same=is_same)}",
        "model": text.model_line(plan.start, machine),
        "output": args.output,
    }
    _say(*(f"{name:7} {line}" for name, line in rows.items()), *(f"note: {x}" for x in plan.notes))
    _say("", text.keys_table(plan.derived, plan.cfg, args.opts), "")


def _go_on(args: argparse.Namespace) -> _Run:
    parts = find_parts(args.data, args.val, None)
    cfg, opts = resume(args.output, _request(args, parts))
    opts += [_DEVICE, args.device] if args.device else []
    path = os.path.join(args.output, CONFIG)
    _say(f"going on with {path}")
    return _Run(path, triples_of(parts, cfg, args.output), True, opts)


def _train(output: str, prepared: _Run) -> int:
    run_args = argparse.Namespace(
        config_file=prepared.config_file,
        opts=list(prepared.opts),
        resume=prepared.resumes,
        eval_only=False,
        dataset=[list(triple) for triple in prepared.triples],
        num_gpus=1,
    )
    if status := train_net.run(run_args, _PROGRAM):
        return status
    report = make_report(output)
    images = images_to_predict(prepared.triples)
    words = ["queryinst", "predict", images, "--model", weights_to_predict(output)]
    words += ["--score", f"{report.counts.min_score:g}"]
    words += ["--output", os.path.join(output, "predicted")]
    _say("", report_text(report), f"predict: {shlex.join(words)}")
    return 0


def images_to_predict(triples: Sequence[Triple]) -> str:
    """The folder of the images held out; one of them if others are in it, or none directly."""
    (_, _, train_images), (_, val_json, val_images) = triples
    is_own = not os.path.samefile(train_images, val_images)
    if is_own and any(map(is_image, os.listdir(val_images))):
        return val_images
    return os.path.join(val_images, read_json(val_json, dict)["images"][0]["file_name"])


def _request(args: argparse.Namespace, parts: Parts | None = None) -> Request:
    splits = parts and (parts.train, parts.val)
    train, val = (digest_of(x.json_file if x else "") for x in splits or (None, None))
    return Request(
        digests=(train, val),
        model=args.model,
        epochs=args.epochs,
        iterations=args.iterations,
        batch=args.batch,
        opts=tuple(args.opts),
    )


def _say(*lines: str) -> None:
    if lines:
        print(*lines, sep="\n", flush=True)
