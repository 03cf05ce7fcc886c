"""LaTeX in, a value out: boxes, numbers, formulas, and whether two answers are the same.

The lowest room: data, evaluation and solving read answers through it. Knows nothing of
problems, models or votes.
"""
