"""Everything that belongs to one competition and would change with the next.

Knows names, ranges, limits and the score rule. Knows nothing of files found, of the wire
or of solving: other modules ask `CURRENT` instead of naming a competition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Competition:
    """One competition. `points[k]` is what a problem earns when k of the `runs` were right.

    `server_module` and `server_class` name the competition's own inference server inside
    `package`, which its files bring. `series_format` is how that package writes a polars
    Series: in Parquet up to its version 0.9, as an Arrow stream from 1.x on. Hours limit a
    whole notebook; `startup_seconds` is how long the gateway waits for a server to listen,
    `response_seconds` how long for one reply.
    """

    name: str
    slug: str
    package: str
    server_module: str
    server_class: str
    series_format: Literal["parquet", "arrow"]
    id_column: str
    problem_column: str
    answer_column: str
    answer_min: int
    answer_max: int
    problems: int
    gpu_hours: float
    cpu_hours: float
    points: tuple[float, ...]
    startup_seconds: float
    response_seconds: float
    test_file: str = "test.csv"
    submission_file: str = "submission.parquet"

    @property
    def runs(self) -> int:
        """How often the notebook is run for the final score."""
        return len(self.points) - 1


AIMO3 = Competition(
    name="AI Mathematical Olympiad - Progress Prize 3",
    slug="ai-mathematical-olympiad-progress-prize-3",
    package="kaggle_evaluation",
    server_module="kaggle_evaluation.aimo_3_inference_server",
    server_class="AIMO3InferenceServer",
    series_format="parquet",
    id_column="id",
    problem_column="problem",
    answer_column="answer",
    answer_min=0,
    answer_max=99999,
    problems=50,
    gpu_hours=5.0,
    cpu_hours=9.0,
    points=(0.0, 0.5, 1.0),
    startup_seconds=15 * 60.0,
    response_seconds=9 * 3600.0,
)

CURRENT = AIMO3


def penalised_score(
    right: Sequence[Sequence[bool]], points: Sequence[float] = CURRENT.points
) -> float:
    """Points over all problems; `right[i][r]` says whether run r had problem i right.

    Raises ValueError where a problem has another number of runs than `points` is for.
    """
    runs = len(points) - 1
    for index, problem in enumerate(right):
        if len(problem) != runs:
            raise ValueError(f"problem {index} has {len(problem)} runs, the score is for {runs}")
    return float(sum(points[sum(map(bool, problem))] for problem in right))
