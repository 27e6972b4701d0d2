"""Encoder-decoder recommender over code sequences: the TIGER family on a T5 backbone.

After Rajput et al., "Recommender Systems with Generative Retrieval" (2023): a T5 encoder reads the codes of the
history, a T5 decoder writes the codes of the next item. The backbone is ``transformers``' T5; training goes through
it unchanged, while decoding runs its decoder layers here, so that the history's cross-attention keys and values
exist once per user.

Vocabulary: 0 padding and decoder start, 1 end of history, then the codes of each level one after another. Logits
are restricted to the level's codebook.

With ``session_size`` m the decoder learns to write the next m items as one sequence, every item after a start of its
own, as in OneRec (Deng et al. 2025, section 3.2).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseActDense

from genrec.config.ranges import Few, Heads, HistoryLength, Layers, Rate, Width
from genrec.models.base import BackboneSettings, Context, GenerativeRecommender, GenrecConfig, TrainingOutput
from genrec.models.capabilities import ExpertAssignment, SessionWriter
from genrec.models.layers.codes import NO_CODE, CodeSpace
from genrec.models.layers.history import draw_cuts, positions_read
from genrec.models.layers.moe import MixtureOfExperts, expert_layers, only_real
from genrec.models.layers.transformer import KeyValue, own_mixture, own_scores

PADDING, END, FIRST_CODE = 0, 1, 2
# Activations of about this many tokens stay in a CPU's cache: the encoder is 1.2 times faster for it, and more where
# histories of like length are read together.
CACHED_TOKENS = 1536


class Seq2SeqSettings(BackboneSettings):
    """Settings of the encoder-decoder family; ``num_layers`` counts each side."""

    num_layers: Layers = Field(4, description="layers of the encoder, and of the decoder")
    num_heads: Heads = 6
    head_size: Width = Field(64, ge=8)
    feed_forward_size: Width | None = Field(1024, ge=8)
    dropout: Rate = 0.1
    max_history: HistoryLength = 20
    targets: Literal["uniform", "last"] = Field("uniform", description="which items of a history are predicted")
    targets_per_user: Few = Field(1, description="targets drawn per user and step")
    session_size: Few = Field(1, description="items that follow each other and are learned as one sequence")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "Seq2SeqSettings":
        # A T5's heads have a width of their own, head_size.
        return self

    @property
    def unread(self) -> dict[str, str]:
        """With what drawn targets need."""
        return super().unread | ({"targets_per_user": "targets: uniform"} if self.targets == "last" else {})

    @property
    def longest_session(self) -> int:
        """As many items as the model learned to write."""
        return self.session_size

    @property
    def targets_at_once(self) -> int:
        """A whole session."""
        return self.session_size

    @model_validator(mode="after")
    def _sessions_are_of_the_plain_family(self) -> "Seq2SeqSettings":
        if self.session_size > 1 and type(self) is not Seq2SeqSettings:
            raise ValueError("session_size above 1 is for the recommender seq2seq")
        return self


class Seq2Seq(SessionWriter, ExpertAssignment, GenerativeRecommender):
    """Codes of the history in, codes of the next item out."""

    Settings: ClassVar[type[BackboneSettings]] = Seq2SeqSettings
    settings: Seq2SeqSettings
    supports_variable_length = True
    supports_experts = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.code_space = CodeSpace(self.level_sizes, self.first_code)
        self.t5 = T5ForConditionalGeneration(self.t5_config())
        self.t5.config.decoder_start_token_id = PADDING
        if self.settings.experts:
            self._place_experts()
        self.post_init()

    def forward(self, items: Tensor, lengths: Tensor, cuts: Tensor | None = None) -> TrainingOutput:
        """Predict drawn items, or sessions, of each history from those before; the loss is the sum over levels.

        Args:
            items: Dense item ids, int64 ``[B, T]``, right-padded.
            lengths: Items per user, int64 ``[B]``.
            cuts: From :meth:`draw_targets`, which is called here where they are missing.
        """
        rows, cuts = self._draw_targets(lengths) if cuts is None else self._given_targets(cuts)
        length = int(cuts.max().clamp_min(1))
        tokens, attention_mask = self.history_tokens(items[rows, :length], cuts)
        encoded = self.t5.encoder(
            inputs_embeds=self.embed_history(tokens, attention_mask), attention_mask=attention_mask
        ).last_hidden_state
        return self.training_output(
            self.writing_loss(encoded, attention_mask, self._sessions(items, lengths, rows, cuts))
        )

    def writing_loss(self, encoded: Tensor, attention_mask: Tensor, items: Tensor) -> Tensor:
        """Loss of writing semantic IDs: the sum over levels, the mean over the items that there are.

        Args:
            encoded: The encoder's outputs, ``[n, S, D]``.
            mask: int64 ``[n, S]``, 0 where no one looks.
            items: Dense ids of single items, int64 ``[n]``, or of sessions, ``[n, m]``; -1 fills the places of a
                shorter one, which are neither routed to experts nor counted in the mean.
        """
        sessions = items.view(len(items), -1)
        codes, there = self.item_codes[sessions.clamp(min=0)].long(), sessions >= 0
        # Every item is after a start; what the last code of a session leads to is not asked.
        written = pad(self.code_tokens(codes), (1, 0), value=PADDING).flatten(1)[:, :-1]
        with self._only_real_positions(codes, there):
            hidden = self.t5.decoder(
                inputs_embeds=self.embed_written(written),
                encoder_hidden_states=encoded,
                encoder_attention_mask=attention_mask,
                use_cache=False,
            ).last_hidden_state
        # Position i * (L + 1) + l of a session predicts level l of item i.
        return self.code_space.loss(
            lambda level: self.code_logits(level, hidden[:, level :: self.num_levels + 1][there]), codes[there]
        )

    def t5_config(self) -> T5Config:
        """The T5 that the settings describe."""
        settings = self.settings
        return T5Config(
            vocab_size=self.vocabulary_size(),
            d_model=settings.hidden_size,
            d_kv=settings.head_size,
            d_ff=settings.feed_forward_size or 4 * settings.hidden_size,
            num_layers=settings.num_layers,
            num_decoder_layers=settings.num_layers,
            num_heads=settings.num_heads,
            dropout_rate=settings.dropout,
            pad_token_id=PADDING,
            eos_token_id=END,
        )

    @property
    def first_code(self) -> int:
        """Row of the first code; what is before it is not of semantic IDs."""
        return FIRST_CODE

    def vocabulary_size(self) -> int:
        """Rows of the T5's table of embeddings; a family may put its own after those of the codes."""
        return self.code_space.end

    def draw_targets(self, lengths: Tensor) -> dict[str, Tensor]:
        """What must be drawn before a batch of ``lengths [B]`` is counted, by the keywords of :meth:`forward`.

        Returns:
            ``cuts``, int64 ``[B, targets_per_user]``: where each session begins; nothing where the count is known.
        """
        if self.settings.session_size == 1 or self.settings.targets == "last":
            return {}
        return {"cuts": self._draw_targets(lengths)[1].view(len(lengths), self.settings.targets_per_user)}

    def count_targets(self, lengths: Tensor, cuts: Tensor | None = None) -> int:
        """How many items the loss of such a batch is the mean over; those expected where ``cuts`` are to be drawn."""
        settings, size = self.settings, self.settings.session_size
        drawn = 1 if settings.targets == "last" else settings.targets_per_user
        if size == 1:
            return len(lengths) * drawn
        if settings.targets == "last":
            cuts = self._draw_targets(lengths)[1].unsqueeze(1)
        if cuts is not None:
            return int((lengths.unsqueeze(1) - cuts).clamp(1, size).sum())
        places = torch.arange(1, 1 + min(self.max_history, max([1, *(lengths - 1).tolist()])), device=lengths.device)
        found = (lengths.unsqueeze(1) - places).clamp(0, size)
        return round(drawn * float((found.sum(1) / (found > 0).sum(1).clamp_min(1)).clamp_min(1).sum()))

    def history_tokens(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 ``[B, T * L + 1]``, of histories closed by the end token.

        After the end of a shorter semantic ID is padding, which is masked.
        """
        positions = lengths.unsqueeze(1) * self.num_levels
        tokens = self.code_tokens(self.item_codes[items].long()).flatten(1)
        tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.masked_fill(place >= positions, PADDING).masked_fill(place == positions, END)
        return tokens, ((place <= positions) & (tokens != PADDING)).long()

    def embed_history(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """What the encoder reads, ``[B, S, D]``, of token ids and attention mask ``[B, S]``."""
        return cast(Tensor, self.t5.shared(tokens))

    def embed_written(self, tokens: Tensor) -> Tensor:
        """What the decoder reads, ``[B, S, D]``, of the start and the codes written so far, ``[B, S]``."""
        return cast(Tensor, self.t5.shared(tokens))

    def code_tokens(self, codes: Tensor) -> Tensor:
        """Token ids of complete semantic IDs ``[..., L]``; padding where there is no code."""
        tokens = self.code_space.token_ids(codes)
        return tokens.masked_fill(codes == NO_CODE, PADDING) if self.config.variable_length else tokens

    def encode(self, items: Tensor, lengths: Tensor) -> Context:
        """Run the encoder once per user and project each decoder layer's cross-attention keys and values."""
        tokens, attention_mask = self.history_tokens(items, lengths)
        encoded = self._read_history(tokens, attention_mask)
        history = []
        for block in self._decoder_blocks():
            cross = block.layer[1].EncDecAttention
            history.append(KeyValue(_split(cross, cross.k(encoded)), _split(cross, cross.v(encoded))))
        context = Context(encoded[:, 0], history, attention_mask.bool(), lengths * self.num_levels + 1)
        start = torch.full((len(items), 1), PADDING, device=items.device)
        context.state = self._decode_token(context, start)[:, 0]
        context.prefix_cache = context.beam_cache
        return context

    def expert_assignments(self, items: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Experts are in the decoder, which reads a start and the codes of a target but the last."""
        tokens, attention_mask = self.history_tokens(items, lengths)
        self.writing_loss(self._read_history(tokens, attention_mask), attention_mask, targets)
        codes = self.item_codes[targets].long().unsqueeze(1)
        mask = self._real_positions(codes, torch.ones_like(codes[..., 0], dtype=torch.bool))
        return positions_read(
            targets.unsqueeze(1), torch.ones_like(targets), codes=self.num_levels, mask=pad(mask, (0, 1))
        )

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level``; in a session an item's last one and the next start."""
        level, ends_item = self.level_of(level)
        tokens = codes + self.code_space.offsets[level]
        if self.config.variable_length:
            tokens = tokens.masked_fill(codes == NO_CODE, PADDING)
        hidden = self._decode_token(context, tokens, self.real_codes(codes))
        return self._decode_token(context, torch.full_like(codes, PADDING)) if ends_item else hidden

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level`` from the decoder's output."""
        rows = self.t5.lm_head.weight[self.code_space.rows(level)]
        if self.t5.config.scale_decoder_outputs:
            hidden = hidden * self.t5.model_dim**-0.5
        return torch.nn.functional.linear(hidden, rows)

    def _read_history(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's output ``[B, T, D]``; what it is where ``attention_mask [B, T]`` is 0 does not matter."""
        if tokens.device.type != "cpu":
            vectors = self.embed_history(tokens, attention_mask)
            return cast(Tensor, self.t5.encoder(inputs_embeds=vectors, attention_mask=attention_mask).last_hidden_state)
        lengths = (attention_mask * torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)).amax(1)
        encoded = torch.zeros(*tokens.shape, self.t5.model_dim, dtype=self.dtype)
        for rows in lengths.argsort().split(max(1, CACHED_TOKENS // tokens.shape[1])):
            width = int(lengths[rows].max())
            seen = attention_mask[rows, :width]
            vectors = self.embed_history(tokens[rows, :width], seen)
            encoded[rows, :width] = self.t5.encoder(inputs_embeds=vectors, attention_mask=seen).last_hidden_state
        return encoded

    def _draw_targets(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(lengths), device=lengths.device)
        if self.settings.targets == "last":
            return rows, torch.maximum(lengths - self.settings.session_size, (lengths > 1).long())
        rows = rows.repeat_interleave(self.settings.targets_per_user)
        # No more is read than max_history items; those after them in a window are what the last of its sessions hold.
        return rows, draw_cuts(lengths[rows].clamp_max(self.max_history + 1))

    def _given_targets(self, cuts: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(cuts), device=cuts.device)
        return rows.repeat_interleave(cuts.shape[1]), cuts.flatten()

    def _only_real_positions(self, codes: Tensor, there: Tensor) -> AbstractContextManager[None]:
        """A context in which the experts of T5's decoder leave out what is not real; see :meth:`_real_positions`."""
        if not self.settings.experts or (codes.shape[1] == 1 and not self.config.variable_length):
            return nullcontext()
        return only_real(expert_layers(self.t5.decoder.modules()), self._real_positions(codes, there))

    def _real_positions(self, codes: Tensor, there: Tensor) -> Tensor:
        """Which positions of what is written experts take, bool ``[n, m * (L + 1) - 1]``.

        Those that read a start or a code, up to the last one that is asked for a code.

        Args:
            codes: Of the items of each session, int64 ``[n, m, L]``.
            there: Whether there is such an item, bool ``[n, m]``.
        """
        asked = pad((codes != NO_CODE) & there.unsqueeze(2), (0, 1), value=False).flatten(1)
        needed = asked.flip(1).cumsum(1).flip(1) > 0
        read = self.real_codes(codes)
        mask = needed if read is None else needed & pad(read, (1, 0), value=True).flatten(1)
        return mask[:, :-1]

    def _sessions(self, items: Tensor, lengths: Tensor, rows: Tensor, cuts: Tensor) -> Tensor:
        """The items from each cut on, int64 ``[n, m]``; -1 after the end of the history."""
        places = cuts.unsqueeze(1) + torch.arange(self.settings.session_size, device=items.device)
        missing = places >= lengths[rows].unsqueeze(1)
        found = items[rows].gather(1, places.clamp(max=items.shape[1] - 1))
        return found.masked_fill(missing & (places > cuts.unsqueeze(1)), -1)

    def _place_experts(self) -> None:
        """Put experts into the decoder, as OneRec does (Deng et al. 2025); the encoder stays dense."""
        config, every = self.t5.config, self.settings.expert_every
        for block in self._decoder_blocks()[every - 1 :: every]:
            experts = MixtureOfExperts(config.d_model, config.d_ff, self.settings, gated=False)
            experts.reset(config.d_model**-0.5, config.d_ff**-0.5)
            block.layer[-1].DenseReluDense = experts

    def _decoder_blocks(self) -> list[Any]:
        return list(self.t5.decoder.block)

    def _decode_token(self, context: Context, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Move beams by the tokens ``[B, M]``, which experts take where bool ``mask [B, M]``; ``own`` grows by one."""
        return self._decode_vector(context, self.t5.shared(tokens), mask)

    def _decode_vector(self, context: Context, x: Tensor, mask: Tensor | None) -> Tensor:
        position = len(context.beam_cache[0]) if context.beam_cache else 0
        blocks = self._decoder_blocks()
        bias = blocks[0].layer[0].SelfAttention.compute_bias(position + 1, position + 1)[:, :, -1]
        unseen = torch.zeros_like(context.attention_mask, dtype=x.dtype).masked_fill(
            ~context.attention_mask, float("-inf")
        )
        grown = []
        for layer, block in enumerate(blocks):
            self_attention, cross_attention, feed_forward = block.layer
            own = context.beam_cache[layer] if context.beam_cache else []
            mixed, own = _attend_own(self_attention.SelfAttention, self_attention.layer_norm(x), own, bias)
            x = x + mixed
            grown.append(own)
            normed = cross_attention.layer_norm(x)
            x = x + _attend_history(cross_attention.EncDecAttention, normed, context.history[layer], unseen)
            dense, normed = feed_forward.DenseReluDense, feed_forward.layer_norm(x)
            plain = isinstance(dense, T5DenseActDense) and isinstance(dense.act, nn.ReLU)
            if isinstance(dense, MixtureOfExperts):
                x = x + dense(normed, mask)
                continue
            x = x + (dense.wo(dense.wi(normed).relu_()) if plain else dense(normed))
        context.beam_cache = grown
        return cast(Tensor, self.t5.decoder.final_layer_norm(x))


def _split(attention: T5Attention, x: Tensor) -> Tensor:
    """``[B, T, H * d]`` as ``[B, H, T, d]``."""
    return x.unflatten(2, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2).contiguous()


def _attend_own(attention: T5Attention, x: Tensor, own: list[KeyValue], bias: Tensor) -> tuple[Tensor, list[KeyValue]]:
    """Self-attention of beams ``x [B, M, D]`` over their own positions; ``bias [1, H, l]``."""
    shape = (attention.n_heads, attention.key_value_proj_dim)
    own = [*own, KeyValue(attention.k(x).unflatten(2, shape), attention.v(x).unflatten(2, shape))]
    weights = (own_scores(attention.q(x).unflatten(2, shape), own) + bias).float().softmax(-1).to(x.dtype)
    return attention.o(own_mixture(weights, own).flatten(2)), own


def _attend_history(attention: T5Attention, x: Tensor, history: KeyValue, unseen: Tensor) -> Tensor:
    """Cross-attention of beams ``x [B, M, D]`` over the history they share; ``unseen [B, T]`` is 0 or -inf."""
    query = _split(attention, attention.q(x))
    scores = query @ history.keys.transpose(-1, -2) + unseen[:, None, None, :]
    mixed = scores.float().softmax(-1).to(x.dtype) @ history.values
    return attention.o(mixed.transpose(1, 2).flatten(2))
