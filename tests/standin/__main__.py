"""Kaggle to play with by hand, from the folder tests/:

    python -m standin [--port 7777]

Prints the variables that bring `kaggle` here, and serves until Ctrl-C. Runs take seconds
and end well.
"""

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from standin.environment import variables
from standin.server import KaggleStandIn

PACE = 5.0  # seconds for one of a run: long enough to follow it


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m standin", description=__doc__)
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--submissions", type=int, default=5, help="that a day allows")
    arguments = parser.parse_args()
    options = {"submissions_a_day": arguments.submissions, "dataset_seconds": PACE, "pace": PACE}
    with (
        tempfile.TemporaryDirectory(prefix="kaggle-") as home,
        KaggleStandIn(port=arguments.port, **options) as kaggle,
    ):
        for name, value in variables(kaggle.settings, kaggle.port, Path(home)).items():
            print(f"export {name}={value!r}")
        # A shell's background jobs are started with the signal ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"# {kaggle.url}, until Ctrl-C", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
