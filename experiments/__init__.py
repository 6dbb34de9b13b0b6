"""The experiments, one module each: `python -m experiments.NAME --help`."""

import signal
import sys

if sys.argv[0] == "-m":  # Ctrl-C during the imports ends quietly, too
    signal.signal(signal.SIGINT, signal.SIG_DFL)
