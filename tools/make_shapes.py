#!/usr/bin/env python3
"""Write the data set `shapes` below the folder of data sets, unless it is there and complete."""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from queryinst.data.shapes import NUM_TRAIN, NUM_VAL, SPLITS, default_root, make_shapes
from queryinst.data.shapes_drawing import draw_scene

TINTS = np.array([(230, 90, 70), (90, 200, 90), (90, 130, 240)])  # ellipse, triangle, star


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", default=default_root(), help="folder of data sets (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="write anew in any case")
    parser.add_argument(
        "--picture", metavar="PNG", help="write a picture of some held-out images and masks instead"
    )
    args = parser.parse_args()
    try:
        if args.picture:
            write_picture(args.picture)
            print(f"{args.picture}: held-out images above, their masks below")
        else:
            write_data(args.root, force=args.force)
    except OSError as error:
        raise SystemExit(f"make_shapes: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("make_shapes: interrupted, nothing was written") from None


def write_data(root: str, *, force: bool) -> None:
    start = time.perf_counter()
    is_new = make_shapes(root, force=force)
    state = f"made in {time.perf_counter() - start:.0f} s" if is_new else "there already"
    print(f"{Path(root) / 'shapes'}: {NUM_TRAIN} training and {NUM_VAL} held-out images, {state}")


def write_picture(path: str, num_images: int = 6) -> None:
    columns = []
    for index in range(num_images):
        scene = draw_scene((0, SPLITS.index("val"), index))
        masks = np.full_like(scene.image, 40)
        for layer, instance in enumerate(scene.instances):
            masks[instance.mask] = TINTS[instance.class_idx] * (1 - 0.11 * layer)
        columns.append(np.vstack([scene.image, masks]))
    picture = Image.fromarray(np.hstack(columns))
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
