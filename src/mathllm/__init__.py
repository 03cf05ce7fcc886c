"""MathLLM: tiny recursive models for the AI Mathematical Olympiad, served on Kaggle."""

__version__ = "0.1.0"
