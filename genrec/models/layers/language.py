"""Causal language models of ``transformers`` as backbones: loaded or made, read on vectors, stepped by beams.

Nothing here knows one architecture. The beams of a user are positions of one sequence after the history, and an
explicit mask lets each see the history and its own codes only; so keys and values of the history exist once per user,
in the model's own cache, and every attention that takes a mask, positions and a cache can be used. ``check_backbone``
tries whether that holds.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from genrec.errors import ConfigError
from genrec.models.layers.moe import Routing
from genrec.models.layers.text_tokenizer import first_line, loading, locate_backbone
from genrec.models.layers.transformer import KeyValue

# Relative differences of float32 states: of the same positions before another future, and by another way through.
CAUSAL, SHARED = 1e-5, 1e-3
# Settings by which a configuration names code or files: kernels of the hub, classes of a repository, other weights.
FETCHED = {
    "attn_implementation",
    "attn_implementation_internal",
    "auto_map",
    "custom_generate",
    "distributed_config",
    "experts_implementation",
    "experts_implementation_internal",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "quantization_config",
    "transformers_weights",
    "use_kernels",
}


class Learned(NamedTuple):
    """What a pass of training gives.

    Attributes:
        states: ``[B, S, D]``.
        balance: What the routers of a mixture of experts add to the loss, float32 scalar; 0 without.
        routings: Where each layer of experts sent its positions; none without.
    """

    states: Tensor
    balance: Tensor
    routings: list[Routing]


def load_language_model(source: str) -> PreTrainedModel:
    """A pretrained causal language model in float32, by folder, GGUF file or name.

    Raises:
        ConfigError: If there is none, or beams cannot share a history in it.
    """
    folder, file = locate_backbone(source)
    place = "a causal language model: a folder, a GGUF file or a name of the Hugging Face hub"
    with loading(f"the backbone {source!r}", file, expected=place):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **file
        )
    check_backbone(model, source)
    return cast(PreTrainedModel, model)


def small_language_model(*, words: int, hidden_size: int, num_layers: int, num_heads: int, inner: int) -> LlamaConfig:
    """The configuration of a Llama made from nothing, input and output vectors tied."""
    return LlamaConfig(
        vocab_size=words,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        intermediate_size=inner,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
    )


def language_model_like(config: dict[str, Any]) -> PreTrainedModel:
    """A language model of this configuration, with weights drawn anew, in float32."""
    known = AutoConfig.for_model(**without_code(config))
    model = AutoModelForCausalLM.from_config(known, dtype=torch.float32, trust_remote_code=False)
    return cast(PreTrainedModel, model)


def without_code(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration without what makes ``transformers`` fetch or run code, or read weights elsewhere."""
    return {name: value for name, value in config.items() if name.removeprefix("_") not in FETCHED}


def input_vectors(model: PreTrainedModel) -> Tensor:
    """The vectors ``[V, D]`` of the words that the model reads."""
    return cast(Tensor, model.get_input_embeddings().weight)


def output_vectors(model: PreTrainedModel) -> Tensor:
    """The vectors ``[V, D]`` that states are compared with to write a word."""
    return cast(Tensor, model.get_output_embeddings().weight)


def longest_sequence(model: PreTrainedModel) -> int | None:
    """Positions that the model can read and all of whose past it sees; None where it has no bound."""
    config = model.config
    bounds = [getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window")]
    known = [bound for bound in bounds if bound]
    return min(known) if known else None


def read_vectors(model: PreTrainedModel, vectors: Tensor, *, keep: bool = False) -> tuple[Tensor, list[KeyValue]]:
    """Run the model over right-padded vectors.

    Causality keeps real positions from seeing the padding after them, so that no mask is needed.

    Args:
        model: A causal language model.
        vectors: ``[B, S, D]``.
        keep: Whether to keep keys and values.

    Returns:
        States ``[B, S, D]`` as its head reads them, and keys and values ``[B, H, S, d]`` per layer; none without
        ``keep``.
    """
    cache = DynamicCache() if keep else None
    output = model.base_model(inputs_embeds=vectors, past_key_values=cache, use_cache=keep)
    return output.last_hidden_state, [] if cache is None else _kept(cache)


def learn_vectors(model: PreTrainedModel, vectors: Tensor, mask: Tensor) -> Learned:
    """Run the model over right-padded vectors; in training with the balance loss of its experts, weighed as it says.

    Args:
        model: A causal language model, dense or with experts (such as Mixtral and Qwen3-MoE).
        vectors: ``[B, S, D]``.
        mask: Positions that count for the balance, bool ``[B, S]``.
    """
    weight = getattr(model.config, "router_aux_loss_coef", None)
    if weight is None or not model.training:
        return Learned(read_vectors(model, vectors)[0], vectors.new_zeros((), dtype=torch.float32), [])
    output = model.base_model(inputs_embeds=vectors, use_cache=False, output_router_logits=True)
    logits, chosen = output.router_logits, model.config.num_experts_per_tok
    balance = load_balancing_loss_func(logits, logits[0].shape[-1], chosen, mask)
    routings = [_routing(layer.detach().flatten(0, -2)[mask.flatten()], chosen) for layer in logits]
    return Learned(output.last_hidden_state, weight * cast(Tensor, balance), routings)


def step_beams(
    model: PreTrainedModel,
    vectors: Tensor,
    positions: Tensor,
    history: list[KeyValue],
    attention_mask: Tensor,
    own: list[list[KeyValue]] | None,
) -> tuple[Tensor, list[list[KeyValue]]]:
    """Move beams one position on.

    Args:
        model: A causal language model.
        vectors: Inputs of the new position, ``[B, M, D]``.
        positions: Its number per user, int64 ``[B]``.
        history: Keys and values ``[B, H, T, d]`` per layer, shared by a user's beams.
        attention_mask: bool ``[B, T]`` over the history's positions.
        own: Keys and values ``[B, M, H, d]`` of the beams' earlier positions, per layer; None at the first.

    Returns:
        States ``[B, M, D]`` and the beams' own keys and values, the new position included.
    """
    batch, beams = vectors.shape[:2]
    earlier = own or [[] for _ in history]
    cache = DynamicCache()
    for layer, shared in enumerate(history):
        parts = [[part.transpose(1, 2) for part in position] for position in earlier[layer]]
        keys, values = (torch.cat([shared[side], *(part[side] for part in parts)], dim=2) for side in (0, 1))
        cache.update(keys, values, layer)
    itself = torch.eye(beams, dtype=torch.bool, device=vectors.device).repeat(1, len(earlier[0]) + 1)
    attention_mask = torch.cat(
        [attention_mask.unsqueeze(1).expand(-1, beams, -1), itself.expand(batch, -1, -1)], dim=2
    ).unsqueeze(1)
    output = model.base_model(
        inputs_embeds=vectors,
        attention_mask=_as_the_model_adds_it(model, attention_mask, vectors.dtype),
        position_ids=positions.unsqueeze(1).expand(-1, beams),
        past_key_values=cache,
        use_cache=True,
    )
    grown = [
        [*before, KeyValue(*(part[:, :, -beams:].transpose(1, 2) for part in layer))]
        for before, layer in zip(earlier, _kept(cache), strict=True)
    ]
    return output.last_hidden_state, grown


def _routing(logits: Tensor, count: int) -> Routing:
    scores = logits.float().softmax(-1)
    chosen = scores.topk(count, dim=-1).indices
    counts = torch.bincount(chosen.flatten(), minlength=scores.shape[1]).float()
    return Routing(counts, counts.new_zeros(()), torch.special.entr(scores).sum(-1).mean(), chosen)


def _kept(cache: DynamicCache) -> list[KeyValue]:
    layers: list[Any] = cache.layers
    return [KeyValue(layer.keys, layer.values) for layer in layers]


def _as_the_model_adds_it(model: PreTrainedModel, attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Fused attention takes bool masks; the plain one adds what it is given."""
    if model.config._attn_implementation == "sdpa":
        return attention_mask
    return torch.zeros_like(attention_mask, dtype=dtype).masked_fill(~attention_mask, torch.finfo(dtype).min)


@torch.no_grad()
def check_backbone(model: PreTrainedModel, source: str) -> None:
    """Try on a few tokens whether the model is causal and whether beams that share a history get what each gets alone.

    Raises:
        ConfigError: If not: the model sees the future, keeps a state instead of keys and values, or takes no mask.
    """
    was_training = model.training
    model.eval()
    table = input_vectors(model)
    first, second = table[[3, 5, 7, 9]].unsqueeze(0), table[[3, 5, 9, 7]].unsqueeze(0)
    problem = "its states differ"
    try:
        states, history = read_vectors(model, table[[3, 5, 2]].unsqueeze(0), keep=True)
        attention_mask = torch.tensor([[True, True, False]], device=table.device)
        two = torch.tensor([2], device=table.device)
        _, own = step_beams(model, torch.cat([first, second], dim=1)[:, [2, 6]], two, history, attention_mask, None)
        last = torch.cat([first, second], dim=1)[:, [3, 7]]
        found, _ = step_beams(model, last, two + 1, history, attention_mask, own)
        whole = torch.cat([read_vectors(model, vectors)[0] for vectors in (first, second)])
        fits = _close(found[0], whole[:, 3], SHARED) and _close(states[0, :2], whole[:, :2], CAUSAL)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        fits, problem = False, first_line(error)
    model.train(was_training)
    if not fits:
        raise ConfigError(
            f"beams cannot share a history in the backbone {source!r}: {problem}",
            where="recommender.backbone",
            expected="a causal language model with attention and a cache, such as Llama, Qwen, Mistral or GPT-2",
            fix="choose another backbone",
        )


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())
