"""`queryinst convert`."""

import argparse

from queryinst.convert import conversion_text, convert_checkpoint


def run(args: argparse.Namespace) -> int:
    """As tools/convert_checkpoint.py."""
    conversion = convert_checkpoint(
        args.source,
        args.target,
        inference_only=args.inference_only,
        allow_pickle=args.allow_pickle,
        to=args.to,
        config_file=args.config_file,
        ema=args.ema,
    )
    print(conversion_text(args.source, args.target, conversion))
    return 0
