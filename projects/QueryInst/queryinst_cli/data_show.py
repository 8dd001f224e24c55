"""`queryinst data show`."""

import argparse
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from queryinst.engine import setup_cfg
from queryinst.own_data.check import DEFAULT_CONFIG
from queryinst.own_data.contents import Content, load_content
from queryinst.own_data.folders import check_target, new_folder
from queryinst.own_data.showing import Augmented, beside, choose, draw_photo
from queryinst.own_data.sources import read_data
from queryinst.own_data.writing import sources_of


def run(args: argparse.Namespace) -> int:
    """Draw some images of each part with their objects, into a folder a part."""
    cfg = setup_cfg(args.config_file or DEFAULT_CONFIG, args.opts)
    splits = read_data(args.data)
    check_target(args.output, sources_of(splits), overwrite=args.overwrite)
    content = load_content(splits)
    with new_folder(args.output) as folder:
        for part in content.parts:
            num = _draw_part(args, content, part, cfg, folder / part)
            print(f"{part}: {num} of {len(content.parts[part])} images")
    print(f"wrote {args.output}")
    return 0


def _draw_part(args: argparse.Namespace, content: Content, part: str, cfg, folder: Path) -> int:
    photos = content.parts[part]
    chosen = choose(photos, args.num_images, args.seed)
    augmented = Augmented(photos, content.classes, cfg, args.seed) if args.augmented else None
    folder.mkdir()
    for number, photo in enumerate(tqdm(chosen, unit="image", disable=None, leave=False), 1):
        pictures = [draw_photo(photo, content.classes)]
        pictures += [augmented.draw(photo)] if augmented else []
        name = f"{number:04d}-{Path(photo.path).stem[:100]}.png"
        Image.fromarray(beside(pictures)).save(folder / name)
    return len(chosen)
