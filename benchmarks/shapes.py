"""Models of random weights in the shapes of real ones, made where they run, never loaded."""

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from mathllm.engines import Decoder, SamplingConfig
from mathllm.trm import RecursiveLM, TRMConfig

SHAPES = {
    "tiny": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vocabulary": 512},
    "512": {"hidden": 512, "layers": 4, "heads": 8, "kv_heads": 2, "vocabulary": 151_936},
    "1024": {"hidden": 1024, "layers": 4, "heads": 16, "kv_heads": 2, "vocabulary": 151_936},
    # config.json of Qwen2.5-0.5B-Instruct, Qwen2.5-Math-1.5B-Instruct and 7B-Instruct
    "0.5b": {
        "hidden": 896,
        "layers": 24,
        "heads": 14,
        "kv_heads": 2,
        "vocabulary": 151_936,
        "intermediate": 4864,
    },
    "1.5b": {
        "hidden": 1536,
        "layers": 28,
        "heads": 12,
        "kv_heads": 2,
        "vocabulary": 151_936,
        "intermediate": 8960,
    },
    "7b": {
        "hidden": 3584,
        "layers": 28,
        "heads": 28,
        "kv_heads": 4,
        "vocabulary": 152_064,
        "intermediate": 18944,
        "tied": False,
    },
}


def backbone_config(shape: str) -> Qwen2Config:
    """The transformers config of a shape, for 4,096 positions."""
    sizes = SHAPES[shape]
    return Qwen2Config(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes.get("intermediate", 4 * sizes["hidden"]),
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=sizes.get("tied", True),
    )


def build(
    shape: str,
    device: str,
    dtype: torch.dtype,
    trm_dtype: torch.dtype | None = None,
    **trm: int,
) -> RecursiveLM:
    """A random backbone of `shape` in `dtype` and an untrained TRM over it (n, T, N_sup).

    The TRM's weights are in `dtype` too, unless `trm_dtype` says otherwise.
    """
    torch.manual_seed(0)
    config = backbone_config(shape)
    with torch.device(device):
        # Not `.to(dtype)`: that would round the rotary frequencies too.
        backbone = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        ).eval()
        model = RecursiveLM(backbone, TRMConfig.for_backbone(config, **trm)).eval()
    for _, parameter in model.trm_parameters():
        parameter.data = parameter.data.to(trm_dtype or dtype)
    return model


def random_prompt(model: RecursiveLM, tokens: int, seed: int = 1) -> list[int]:
    """Token ids that are the same in every run."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (tokens,), generator=generator).tolist()


@torch.inference_mode()
def agree(
    model: RecursiveLM, prompt: list[int], wanted: float, tokens: int, tries: int = 12
) -> float:
    """Scale f's output projections until greedy decoding keeps `wanted` of the drafts.

    An untrained TRM says what its backbone says, so that every draft stands. Bisection on
    the logarithm of the scale, on the share of tokens of the decoder's own text where the
    backbone would say the same. Gives the share reached.
    """
    projections = [p for k, p in model.trm_parameters() if k.endswith(("o.weight", "down.weight"))]
    directions = [torch.randn_like(p.float()) / p.shape[1] ** 0.5 for p in projections]
    low, high, share = -7.0, 1.0, 1.0
    for _ in range(tries):
        scale = (low + high) / 2
        for projection, direction in zip(projections, directions, strict=True):
            projection.copy_(direction * 10**scale)
        share = agreement(model, prompt, tokens)
        if abs(share - wanted) < 0.015:
            break
        low, high = (scale, high) if share > wanted else (low, scale)
    return share


def agreement(model: RecursiveLM, prompt: list[int], tokens: int) -> float:
    """Share of the decoder's greedy tokens that the backbone would have said there too."""
    config = SamplingConfig(max_new_tokens=tokens, temperature=0)
    decoder = Decoder(model, max_drafts=4, graphs=False)
    ((sample,),) = decoder.generate([prompt], config)
    text = torch.tensor([prompt + sample.tokens], device=model.halting.weight.device)
    theirs = model.backbone(text).logits[0, len(prompt) - 1 : -1].argmax(dim=-1)
    return (theirs == text[0, len(prompt) :]).float().mean().item()
