"""The engine to compare with: ``generate`` of Hugging Face with ``prefix_allowed_tokens_fn`` on the same weights.

A :class:`Seq2Seq` becomes a T5, a :class:`Decoder` a Llama. Both write one vocabulary: padding, end (or start), then
the codes of each level one after another.
"""

from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config
from transformers import T5ForConditionalGeneration as T5
from transformers.utils import ModelOutput

from genrec.models.families.decoder import Decoder
from genrec.models.families.seq2seq import END, FIRST_CODE, PADDING, Seq2Seq
from genrec.models.layers.transformer import ROTARY_BASE, TransformerBlock

# A decoder-only model begins its history where an encoder-decoder model ends it.
START = END


def next_level_only(logits: Tensor, last: Tensor, starts: Tensor) -> Tensor:
    """Logits ``[R, 1, V]``, -inf outside the codebook of the level that follows the tokens ``last [R]``."""
    level = torch.searchsorted(starts, last.unsqueeze(1).contiguous(), right=True) % (len(starts) - 1)
    tokens = torch.arange(logits.shape[-1], device=level.device)
    legal = (tokens >= starts[level]) & (tokens < starts[level + 1])
    return logits.masked_fill(~legal.unsqueeze(1), float("-inf"))


class LevelledT5(T5):
    """A T5 whose next-token distribution is over the codebook of the next level, as genrec's heads are."""

    starts: Tensor

    def __init__(self, config: T5Config, starts: Tensor) -> None:
        super().__init__(config)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, *args: Tensor, decoder_input_ids: Tensor, **options: object) -> ModelOutput:
        """The logits of T5, -inf outside the next level's codebook."""
        output = super().forward(*args, decoder_input_ids=decoder_input_ids, **options)
        output.logits = next_level_only(output.logits, decoder_input_ids[:, -1], self.starts)
        return output


class LevelledLlama(LlamaForCausalLM):
    """A Llama whose next-token distribution is over the codebook of the next level, with biases in its head."""

    starts: Tensor

    def __init__(self, config: LlamaConfig, starts: Tensor) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, input_ids: Tensor, **options: object) -> ModelOutput:
        """The logits of Llama, -inf outside the next level's codebook."""
        output = super().forward(input_ids, **options)
        output.logits = next_level_only(output.logits, input_ids[:, -1], self.starts)
        return output


class GenerateReference:
    """``generate`` over the same semantic IDs with the weights of a recommender.

    Args:
        model: Whose weights, vocabulary and semantic IDs are used; no two items may share a semantic ID.
    """

    def __init__(self, model: Seq2Seq | Decoder) -> None:
        self.model = model
        self.starts = torch.tensor([0, *model.level_sizes]).cumsum(0) + FIRST_CODE
        engine = _t5(model, self.starts) if isinstance(model, Seq2Seq) else _llama(model, self.starts)
        self.engine: Any = engine.eval()
        paths = [tuple(row) for row in self._tokens(model.item_codes).tolist()]
        self.item_of = {path: item for item, path in enumerate(paths)}
        children: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for path in paths:
            for level, token in enumerate(path):
                children[path[:level]].add(token)
        self.children = {prefix: sorted(tokens) for prefix, tokens in children.items()}
        self.prompt_size = 1

    @torch.no_grad()
    def search(self, items: Tensor, lengths: Tensor, num_beams: int, top_k: int) -> tuple[Tensor, Tensor]:
        """Items int64 ``[B, k]`` and their log-probabilities float32 ``[B, k]``."""
        output = self.engine.generate(
            **self._prompt(items, lengths),
            num_beams=num_beams,
            num_return_sequences=top_k,
            max_new_tokens=self.model.num_levels,
            length_penalty=0.0,
            do_sample=False,
            prefix_allowed_tokens_fn=self._allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
        written = output.sequences[:, -self.model.num_levels :].tolist()
        found = [self.item_of.get(tuple(row), -1) for row in written]
        return torch.tensor(found).view(len(items), top_k), output.sequences_scores.view(len(items), top_k)

    def _tokens(self, codes: Tensor) -> Tensor:
        return codes.long() + self.starts[:-1].to(codes.device)

    def _prompt(self, items: Tensor, lengths: Tensor) -> dict[str, Tensor | int]:
        if isinstance(self.model, Seq2Seq):
            tokens, mask = self.model.history_tokens(items, lengths)
            return {"input_ids": tokens, "attention_mask": mask, "decoder_start_token_id": PADDING}
        tokens = self._tokens(self.model.item_codes[items]).flatten(1)
        tokens = torch.cat([torch.full_like(tokens[:, :1], START), tokens], dim=1)
        self.prompt_size = tokens.shape[1]
        # Padding on the left: what is written must follow the last code of the history.
        place = torch.arange(self.prompt_size) - (self.prompt_size - 1 - lengths.unsqueeze(1) * self.model.num_levels)
        tokens = tokens.gather(1, place.clamp(min=0)).masked_fill(place < 0, PADDING)
        return {"input_ids": tokens, "attention_mask": (place >= 0).long()}

    def _allowed(self, _: int, prefix: Tensor) -> list[int]:
        return self.children.get(tuple(prefix[self.prompt_size :].tolist()), [END])


def _t5(model: Seq2Seq, starts: Tensor) -> PreTrainedModel:
    engine = LevelledT5(model.t5.config, starts)
    engine.load_state_dict(model.t5.state_dict())
    return engine


def _llama(model: Decoder, starts: Tensor) -> PreTrainedModel:
    settings = model.settings
    engine = LevelledLlama(
        LlamaConfig(
            vocab_size=int(starts[-1]),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.feed_forward_size or 2 * settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
            tie_word_embeddings=False,
            pad_token_id=PADDING,
            bos_token_id=START,
            eos_token_id=PADDING,
        ),
        starts,
    )
    head, start = model.head, model.start.unsqueeze(0)
    weights = {
        "model.embed_tokens.weight": torch.cat([torch.zeros_like(start), start, model.codes.table.weight]),
        "model.norm.weight": model.transformer.norm.weight,
        "lm_head.weight": torch.cat([head.weight.new_zeros(FIRST_CODE, settings.hidden_size), head.weight]),
        "lm_head.bias": torch.cat([head.bias.new_zeros(FIRST_CODE), head.bias]),
    }
    for layer, block in enumerate(model.transformer.blocks):
        weights |= {
            f"model.layers.{layer}.{name}.weight": part
            for name, part in _llama_layer(cast(TransformerBlock, block)).items()
        }
    engine.load_state_dict(weights)
    return engine


def _llama_layer(block: TransformerBlock) -> dict[str, Tensor]:
    query, key, value = block.query_key_value.weight.chunk(3)
    gate, up = block.gate_up.weight.chunk(2)
    return {
        "input_layernorm": block.attention_norm.weight,
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.o_proj": block.attention_out.weight,
        "post_attention_layernorm": block.feed_forward_norm.weight,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": block.down.weight,
    }
