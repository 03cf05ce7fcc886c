#!/usr/bin/env python3
"""The command line, see src/mathllm/cli.

The package need not be installed, and the working directory does not matter.
"""

import signal
import sys
from pathlib import Path

# Until there is something to end, Ctrl-C ends this at once; unless it is to be ignored.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from mathllm.cli.main import main  # noqa: E402 (found by the line above)

if __name__ == "__main__":
    sys.exit(main(ROOT))
