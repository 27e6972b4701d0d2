"""The engine to compare with: ``generate`` of Hugging Face with ``prefix_allowed_tokens_fn`` on the same weights."""

from collections import defaultdict

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import ModelOutput

from genrec.models.seq2seq import END, FIRST_CODE, PADDING, Seq2Seq


class LevelRestricted(T5ForConditionalGeneration):
    """A T5 whose next-token distribution is over the codebook of the next level, as genrec's heads are."""

    starts: Tensor

    def __init__(self, config: T5Config, level_sizes: list[int]) -> None:
        super().__init__(config)
        starts = torch.tensor([0, *level_sizes]).cumsum(0) + FIRST_CODE
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, *args: Tensor, decoder_input_ids: Tensor, **options: object) -> ModelOutput:
        """The logits of T5, -inf outside the next level's codebook."""
        output = super().forward(*args, decoder_input_ids=decoder_input_ids, **options)
        level = torch.searchsorted(self.starts, decoder_input_ids[:, -1:].contiguous(), right=True)
        tokens = torch.arange(output.logits.shape[-1], device=level.device)
        legal = (tokens >= self.starts[level]) & (tokens < self.starts[level + 1])
        output.logits = output.logits.masked_fill(~legal.unsqueeze(1), float("-inf"))
        return output


class GenerateReference:
    """``generate`` over the same identifiers with the weights of a :class:`Seq2Seq`.

    Args:
        model: Whose weights, vocabulary and identifiers are used; no two items may share an identifier.
    """

    def __init__(self, model: Seq2Seq) -> None:
        self.model = model
        self.t5 = LevelRestricted(model.t5.config, model.level_sizes).eval()
        self.t5.load_state_dict(model.t5.state_dict())
        paths = [tuple(row) for row in model.code_tokens(model.item_codes.long()).tolist()]
        self.item_of = {path: item for item, path in enumerate(paths)}
        children: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for path in paths:
            for level, token in enumerate(path):
                children[path[:level]].add(token)
        self.children = {prefix: sorted(tokens) for prefix, tokens in children.items()}

    @torch.no_grad()
    def search(self, items: Tensor, lengths: Tensor, num_beams: int, top_k: int) -> tuple[Tensor, Tensor]:
        """Items int64 ``[B, k]`` and their log-probabilities float32 ``[B, k]``."""
        tokens, mask = self.model.history_tokens(items, lengths)
        output = self.t5.generate(
            input_ids=tokens,
            attention_mask=mask,
            num_beams=num_beams,
            num_return_sequences=top_k,
            max_new_tokens=self.model.num_levels,
            length_penalty=0.0,
            do_sample=False,
            decoder_start_token_id=PADDING,
            prefix_allowed_tokens_fn=self._allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
        found = [self.item_of.get(tuple(row), -1) for row in output.sequences[:, 1:].tolist()]
        return torch.tensor(found).view(len(items), top_k), output.sequences_scores.view(len(items), top_k)

    def _allowed(self, _: int, prefix: Tensor) -> list[int]:
        return self.children.get(tuple(prefix.tolist()[1:]), [END])
