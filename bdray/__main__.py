"""`python -m bdray`, and the command `bdray`: see bdray.cli."""

import sys

from bdray.cli import main

if __name__ == "__main__":
    sys.exit(main())
