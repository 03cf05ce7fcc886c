"""A stand-in of Kaggle's evaluation package, from what is known of how it behaves, in two
versions. Nothing of mathllm is imported. See helpers/kaggle_package.py, which lays it out."""

import sys
from pathlib import Path

_here = Path(__file__).parent
if not (_here / "core" / "generated" / "kaggle_evaluation_pb2.py").is_file():
    sys.exit(1)
sys.path += [str(_here), str(_here / "core" / "generated")]

__version__ = "VERSION"
NEW = not __version__.startswith("0.")
