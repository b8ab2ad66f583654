"""`python -m c2fvl` is the command `c2fvl`."""

import sys

from c2fvl.cli.main import main

sys.exit(main())
