"""MathLLM: tiny recursive models for the AI Mathematical Olympiad, served on Kaggle."""

import warnings

__version__ = "0.1.0"

# Where a notebook has no widgets, progress bars are text, which needs no warning.
warnings.filterwarnings("ignore", message="IProgress not found")
