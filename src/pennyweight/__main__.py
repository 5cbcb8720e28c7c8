"""`python -m pennyweight`: the command."""

import sys

from pennyweight.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
