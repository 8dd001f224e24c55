"""python -m queryinst: the command `queryinst`."""

import sys

from queryinst_cli import main

if __name__ == "__main__":
    sys.exit(main())
