#!/usr/bin/env python3
"""Write the model zoo's table in projects/QueryInst/README.md anew, from models.yaml."""

import argparse
import sys

from queryinst.model_zoo.metadata import PACKAGED_MODELS_YAML, load_models
from queryinst.model_zoo.table import find_readme, insert_tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the table is out of step"
    )
    args = parser.parse_args()
    try:
        readme = find_readme()
        if readme is None:
            raise FileNotFoundError("no projects/QueryInst/README.md: this is no checkout")
        before = readme.read_text(encoding="utf-8")
        after = insert_tables(before, load_models(PACKAGED_MODELS_YAML), str(readme))
        if args.check and after != before:
            raise ValueError(f"{readme} is out of step with models.yaml; run tools/render_zoo.py")
        if after != before:
            readme.write_text(after, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"render_zoo.py: error: {error}", file=sys.stderr)
        return 1
    print(f"{readme}: {'in step' if after == before else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
