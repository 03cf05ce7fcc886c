"""Everything that belongs to one competition and would change with the next.

Knows nothing of files found, of the wire or of solving: other modules ask `CURRENT` instead of
naming a competition.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationPackage:
    """What versions of Kaggle's evaluation package do differently.

    `takes_methods`: a bound method may be an endpoint, under Class.method and under its bare
    name. The server takes the first free of `server_ports`; a rerun's gateway tries
    `gateway_ports`, a local run's the server's own.
    `local_response_seconds` limit a reply of a local run, None as in a rerun.
    `lost_host_is_connection`: a server's host name that could be looked up once and is gone
    counts as a failed connection, not as a fault of the gateway.
    """

    version: str
    takes_methods: bool
    server_ports: tuple[int, ...]
    gateway_ports: tuple[int, ...]
    local_response_seconds: float | None
    lost_host_is_connection: bool


_PORTS_0_9 = (50051, *range(60053, 60063))
# 0.9.0 came with AIMO3's files, 1.4.0 with those of a later competition.
PACKAGES = {
    package.version: package
    for package in (
        EvaluationPackage("0.9.0", False, _PORTS_0_9, _PORTS_0_9, None, False),
        EvaluationPackage(
            version="1.4.0",
            takes_methods=True,
            server_ports=(50051, *range(60053, 60144, 10)),
            gateway_ports=tuple(range(50051, 50057)),
            local_response_seconds=3600.0,
            lost_host_is_connection=True,
        ),
    )
}


def evaluation_package(version: str) -> EvaluationPackage:
    """The rules of a version; of an unknown one, those of the newest before it, or the oldest."""

    def order(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)]

    known = sorted(PACKAGES, key=order)
    before = [name for name in known if order(name) <= order(version)]
    return PACKAGES[before[-1] if before else known[0]]


@dataclass(frozen=True)
class Competition:
    """One competition. `points[k]` is what a problem earns when k of the `runs` were right.

    Its files bring the evaluation package: `package` names it, `package_version` is the one
    that was met there, and `server_module`, `gateway_module` and their classes are the
    competition's own, somewhere inside it. `endpoint` is the function that the gateway calls.
    Hours limit a whole notebook; `startup_seconds` is how long the gateway waits for a server
    to listen, `response_seconds` how long for a reply after the first. `internet`: whether
    notebooks may have it.
    """

    name: str
    slug: str
    package: str
    package_version: str
    server_module: str
    server_class: str
    gateway_module: str
    gateway_class: str
    endpoint: str
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
    internet: bool = False
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
    package_version="0.9.0",
    server_module="aimo_3_inference_server",
    server_class="AIMO3InferenceServer",
    gateway_module="aimo_3_gateway",
    gateway_class="AIMO3Gateway",
    endpoint="predict",
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
