#!/usr/bin/env python3
"""Download published models, evaluate them on COCO val2017, show both figures side by side."""

import argparse
import os
import sys


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names or configurations of models.yaml (default: all that can be downloaded)",
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of data sets; by default $DETECTRON2_DATASETS"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="the published file of the one model of --models"
    )
    parser.add_argument(
        "--output", default="output/zoo", metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="write the figures into models.yaml and the README's table",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="configuration keys, last on the line",
    )
    return parser


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    if args.weights and len(args.models) != 1:
        parser.error("--weights needs --models with one name")
    if args.data_root:  # Detectron2 reads this when it is imported
        os.environ["DETECTRON2_DATASETS"] = args.data_root
    try:
        evaluate(args)
    except KeyboardInterrupt:
        print("evaluate_zoo.py: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"evaluate_zoo.py: error: {' '.join(str(text).split())}", file=sys.stderr)
        return 1
    return 0


def evaluate(args: argparse.Namespace) -> None:
    from queryinst.engine.zoo_evaluation import check_recordable, choose_models, comparison, measure
    from queryinst.model_zoo.records import record_measured

    models = choose_models(args.models)
    for entry in models if args.record else ():
        check_recordable(entry, args.opts)
    lines = []
    for entry in models:
        measured = measure(entry, args.output, args.opts, weights=args.weights)
        lines.append(comparison(entry, measured))
        if args.record:
            lines += [f"  recorded in {path}" for path in record_measured(entry.name, measured)]
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
