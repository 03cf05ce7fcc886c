"""Train what a description says: `python -m mathllm.training RUN.json`, or by accelerate."""

import argparse
import sys
from pathlib import Path

from mathllm.errors import UserError
from mathllm.training.launch import read_run, run_training


def main() -> int:
    """Exit status 2 for a mistake of the user's, 0 when the run ended as it should."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch -m mathllm.training",
        description="Train a TRM as described by a run.json that the train notebook wrote. "
        "Goes on from its last checkpoint; Ctrl-C saves first.",
    )
    parser.add_argument("run", type=Path, help="the description, output_dir/run.json")
    try:
        outcome = run_training(read_run(parser.parse_args().run))
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    if outcome.reason:
        print(f"stopped by {outcome.reason} after step {outcome.step:,} of {outcome.steps:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
