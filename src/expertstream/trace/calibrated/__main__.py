"""Fit the packaged calibrations anew."""

import sys
from pathlib import Path

from expertstream.trace.calibrated import FOLDER, write

if len(sys.argv) != 2:
    sys.exit("usage: python -m expertstream.trace.calibrated FOLDER_OF_CAPTURES")
write(Path(sys.argv[1]), FOLDER)
