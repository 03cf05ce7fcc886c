"""An evaluation that saves after every batch and is killed after some rows."""

import os
import signal
import sys
from pathlib import Path

from helpers.scripted import SETTINGS, Scripted, header, killed, make_problems, make_tokenizer
from mathllm.evaluation.results import ResultFile
from mathllm.evaluation.run import draw
from mathllm.solving import Solver
from mathllm.solving.dialects import ChatML


def run(folder: Path, rows: int = 10**9) -> ResultFile:
    """Evaluate, from what is there; SIGKILL once so many rows are judged."""
    tokenizer, problems, told = make_tokenizer(), make_problems(), []

    def tell(row):
        told.append(row)
        if len(told) == rows:
            os.kill(os.getpid(), signal.SIGKILL)

    ids = problems.rows["id"].to_list()
    file = ResultFile(killed(folder), header(problems), ids, every_seconds=0)
    with file:
        draw(Solver(Scripted(tokenizer), ChatML(tokenizer), SETTINGS), problems.rows, file, 6, tell)
    return file


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
