"""The experiments, one module each: `python -m experiments.NAME --help`."""

import os
import signal
import sys

if sys.argv[0] == "-m":
    # Ctrl-C during the imports ends quietly, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Without these streams (2>&-), what is printed to them is dropped, and no file of
    # the run takes their place.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
