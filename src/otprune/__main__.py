"""`python -m otprune` is `otprune`."""

import sys

from otprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
