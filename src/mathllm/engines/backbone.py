"""The plain backbone as an engine: what the recursion is compared with.

Tokens are drawn by the same rules from the same random numbers, over the same caches and packed
weights, so that a ratio of the two tells of the recursion alone.
"""

from mathllm.engines.batch import PromptBatch
from mathllm.engines.lanes import Lanes
from mathllm.engines.local import LocalEngine
from mathllm.engines.sampling import DRAFT, inverse_transform, measures
from mathllm.trm import RecursiveLM


class BackboneDecoder(LocalEngine):
    """Generates with the frozen backbone of `model` alone. Arguments as Decoder's."""

    def __init__(
        self, model: RecursiveLM, memory_bytes: int | None = None, graphs: bool | None = None
    ) -> None:
        super().__init__(model, 0, 0, None, memory_bytes, graphs)

    def advance(self, lanes: Lanes, batch: PromptBatch) -> None:
        """One token for each row."""
        _, normed = lanes.feed(batch.last[:, None], lanes.window(1))
        logits = self.model.backbone.lm_head(normed[:, -1]).float()
        broken = ~logits.logsumexp(dim=-1).isfinite()
        logits = logits.masked_fill(broken[:, None], 0.0)
        seen = batch.seen(logits.shape[-1])
        if batch.rules.greedy:
            tokens = batch.rules.penalise(logits, seen).argmax(dim=-1)
        else:
            p = batch.rules.probabilities(logits, seen)
            tokens = inverse_transform(p, batch.uniform(1)[:, 0, DRAFT])
        logprobs, entropy = measures(logits, tokens)
        drawn = (tokens.tolist(), logprobs.tolist(), entropy.tolist(), broken.tolist())
        for row, values in zip(batch.rows, zip(*drawn, strict=True), strict=True):
            row.add(*values)
        lanes.advance([1] * len(batch.rows))
