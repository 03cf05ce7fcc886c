"""Which rows a group takes, for how many supervision steps, and what each step is taught.

Without gates every group takes N_sup steps of any rows. With gates and a target for each step,
depth comes first: step t is taught what stands after t hops, however many are asked for (forced).
Then the hops count: step t is taught what stands after min(t, hops) of them (hold). Depth, and then
hops, rise by one each time that the moving share of right rows passes a gate: by the clock it is
learned badly (docs/EVIDENCE.md). A gate that never opens is given up after a while. Rows without
targets by step may be among the others: they keep their own labels in every step, and no gate looks
at them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mathllm.errors import ParameterError
from mathllm.tokens.batches import NO_LABEL, plan_batches, rank_share
from mathllm.tokens.rows import TokenSet
from mathllm.training.config import TrainConfig
from mathllm.training.processes import Processes

FORGET = 0.95  # of the moving share's past, a group
LEAST_GROUPS = 10  # of a stage, before its gate can open
BY_STEP = ("steps", "shuffled")  # targets that need a label for each step


@dataclass(frozen=True)
class Stage:
    """all: any rows, N_sup steps. forced: step t is taught what stands after t hops, up to `depth`.
    hold: rows of at most `depth` hops. answer: of any row only its own labels, from its hops on.
    """

    phase: Literal["all", "forced", "hold", "answer"]
    depth: int = 0

    def __str__(self) -> str:
        return f"{self.phase} {self.depth}" if self.depth else self.phase


def stages_of(data: TokenSet, config: TrainConfig, N_sup: int) -> list[Stage]:
    """A run's stages, in their order. Raises ParameterError for rows that do not allow them."""
    if not config.gated:
        return [Stage("all")]
    depths, hops = data.by_step.depths, data.by_step.hops
    if not depths.any():
        raise ParameterError(
            f"none of {len(data):,} training rows has labels by step: give data that have them, as "
            "dataset chains, or targets 'same' without gates"
        )
    longest = int(hops.max())
    if config.targets in BY_STEP and longest > N_sup:
        raise ParameterError(
            f"a training row asks for {longest} hops and N_sup is {N_sup}: raise N_sup to at least "
            f"{longest}, or leave such rows out"
        )
    deepest = min(N_sup, int(depths.max())) if config.targets == "steps" else 0
    if config.forced > deepest:
        raise ParameterError(
            f"forced is {config.forced}: with targets '{config.targets}', N_sup {N_sup} and labels "
            f"for at most {depths.max()} steps in a row it must be at most {deepest}"
        )
    if missing := sorted(set(range(1, longest + 1)) - set(hops.tolist())):
        raise ParameterError(
            f"no training row has {missing[0]} hops, and some have {longest}: the curriculum needs "
            "rows of each number"
        )
    stages = [Stage("forced", depth) for depth in range(1, config.forced + 1)]
    stages += [Stage("hold", depth) for depth in range(1, longest + 1)]
    return [*stages, Stage("answer")] if config.answer_phase else stages


class Curriculum:
    """A run's groups, one after another, and where it stands among its stages.

    A group has `passes` supervision steps, of which `passed` are done. `groups` of them make up an
    epoch of all rows; `group` counts them from the start.
    """

    def __init__(
        self, data: TokenSet, config: TrainConfig, N_sup: int, processes: Processes
    ) -> None:
        self._data, self._config, self._processes, self._N_sup = data, config, processes, N_sup
        self.stages = stages_of(data, config, N_sup)
        self.by_length = np.argsort(data.lengths, kind="stable")
        plan = plan_batches(data.lengths, config.batch, config.seed)
        self.groups = len(self._shared(plan))
        self.group, self.passed, self.passes = 0, 0, 0
        self._stage = 0
        self.epoch, self._place = 0, 0
        self._seen, self._right, self._count = 0, 0.0, 0.0
        self._planned: tuple[int, int] | None = None
        self._plan: list[list[np.ndarray]] = []

    @property
    def stage(self) -> Stage:
        """The one that the run is in."""
        return self.stages[self._stage]

    @property
    def accuracy(self) -> float:
        """The moving share of rows that were right in a group's last step, of those that the gate
        looks at; 0 before any."""
        return self._right / self._count if self._count else 0.0

    @property
    def over(self) -> bool:
        """Whether all groups have been taken."""
        return self.group == self._config.epochs * self.groups

    @property
    def eligible(self) -> np.ndarray:
        """Rows that the stage can take, in ascending order of length."""
        rows, by_step, stage = self.by_length, self._data.by_step, self.stage
        if stage.phase == "forced":
            depths = by_step.depths[rows]
            return rows[(depths >= stage.depth) | (depths == 0)]
        if stage.phase == "hold":
            return rows[by_step.hops[rows] <= stage.depth]
        return rows

    def begin(self) -> list[np.ndarray]:
        """This process's micro-batches of the next group."""
        self.passed, self.passes = 0, self._steps()
        return self._batches()[self._place]

    def _batches(self) -> list[list[np.ndarray]]:
        """This process's micro-batches of the stage's rows, group after group, once through."""
        if self._planned != (self._stage, self.epoch):
            rows = np.sort(self.eligible)
            plan = plan_batches(
                self._data.lengths[rows], self._config.batch, self._config.seed, self.epoch
            )
            self._plan = self._shared([rows[places] for places in plan])
            self._planned = (self._stage, self.epoch)
        return self._plan

    def targets(self, rows: Sequence[int], ages: Sequence[int]) -> list[int]:
        """Whose labels rows have in their next supervision step, after `ages` of them: a step's, 0
        for the row's own, or NO_LABEL."""
        hops = self._data.by_step.hops
        return [self._target(r, a + 1, int(hops[r])) for r, a in zip(rows, ages, strict=True)]

    def _target(self, row: int, step: int, hops: int) -> int:
        phase, targets = self.stage.phase, self._config.targets
        if phase == "answer":
            return 0 if step >= hops else NO_LABEL
        if targets == "final":
            return 0 if step == self.passes else NO_LABEL
        if targets == "same":
            return 0
        if phase == "forced":
            return step
        if targets == "spread":
            return -(-hops * min(step, self.passes) // self.passes)
        if targets == "shuffled" and step < hops:
            order = np.random.default_rng((self._config.seed, row)).permutation(hops - 1)
            return 1 + int(order[step - 1])
        return min(step, hops)

    def judged(self, rows: Sequence[int], ages: Sequence[int]) -> list[int]:
        """Places of the rows that the gate looks at: those that took all steps of the group and
        reach the stage's depth."""
        hops = self._data.by_step.hops[rows]
        chosen = hops == self.stage.depth if self.stage.phase == "hold" else hops > 0
        return np.flatnonzero(chosen & (np.asarray(ages) == self.passes)).tolist()

    def end(self, right: float, count: float) -> str:
        """The group is over, and `right` of `count` rows were; what is to be said of it."""
        self.group += 1
        self._place += 1
        if self._place == len(self._batches()):
            self.epoch, self._place = self.epoch + 1, 0
        self._seen += 1
        self._right = FORGET * self._right + right
        self._count = FORGET * self._count + count
        last = self._stage + 1 == len(self.stages)
        if last:
            return ""
        if self._seen >= LEAST_GROUPS and self.accuracy >= self._config.gate:
            said = f"{self.stage} is learned: {self.accuracy:.1%} right after {self._seen:,} groups"
            self._enter(self._stage + 1)
            return f"{said}; now {self.stage}"
        if self._seen < self._config.patience:
            return ""
        said = (
            f"{self.stage} was not learned in {self._seen:,} groups: {self.accuracy:.1%} right, "
            f"the gate is {self._config.gate:.1%}"
        )
        following = self._stage + 1
        if self.stage.phase == "forced":  # what a depth rests on is missing: no deeper
            following = next(n for n, stage in enumerate(self.stages) if stage.phase == "hold")
        self._enter(following)
        return f"{said}; now {self.stage}"

    def state(self) -> dict[str, Any]:
        """All that moves, as JSON."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        for name in _STATE:
            setattr(self, name, state[name])

    def _enter(self, stage: int) -> None:
        self._stage, self.epoch, self._place = stage, self.epoch + 1, 0
        self._seen, self._right, self._count = 0, 0.0, 0.0

    def _steps(self) -> int:
        """Supervision steps of a group: while hops count, some more than the most hops."""
        stage = self.stage
        if stage.phase == "forced":
            return stage.depth
        if stage.phase == "all":
            return self._N_sup
        longest = stage.depth or int(self._data.by_step.hops.max())
        rng = np.random.default_rng((self._config.seed, self.group))
        return min(self._N_sup, longest + int(rng.integers(1, self._config.beyond + 1)))

    def _shared(self, plan: list[np.ndarray]) -> list[list[np.ndarray]]:
        return rank_share(
            plan,
            self._processes.process_index,
            self._processes.num_processes,
            self._config.gradient_accumulation,
        )


_STATE = (
    *("group", "passed", "passes", "epoch", "_place"),
    *("_stage", "_seen", "_right", "_count"),
)
