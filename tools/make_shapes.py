#!/usr/bin/env python3
"""Write the data set `shapes` below the folder of data sets, unless it is there and complete."""

import argparse
import time
from pathlib import Path

from queryinst.data.shapes import NUM_TRAIN, NUM_VAL, default_root, make_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", default=default_root(), help="folder of data sets (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="write anew in any case")
    args = parser.parse_args()
    try:
        start = time.perf_counter()
        is_new = make_shapes(args.root, force=args.force)
    except OSError as error:
        raise SystemExit(f"make_shapes: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("make_shapes: interrupted, nothing was written") from None
    state = f"made in {time.perf_counter() - start:.0f} s" if is_new else "there already"
    print(
        f"{Path(args.root) / 'shapes'}: {NUM_TRAIN} training and {NUM_VAL} held-out images, {state}"
    )


if __name__ == "__main__":
    main()
