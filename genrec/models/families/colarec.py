"""Encoder-decoder recommender that reads users as sets of item contents and writes collaborative semantic IDs.

After Wang et al., "Content-Based Collaborative Generation for Recommender Systems" (ColaRec, 2403.18480): semantic IDs
come from collaborative vectors (tokenizer ``gid``), inputs are contents. One T5 learns two tasks, distinguished by a
learned prompt: *recommendation*, the contents of a user's items in, the next item's semantic ID out; and *item
indexing*, one item's content and its users in, its own semantic ID out. States of users and of their items are drawn
together by BPR, those of items that share all codes but the last by a contrast.

Where the authors' code goes astray this follows the method: the level of a code is given and not guessed from the
length of the cache, logits are not rescaled, a level has as many codes as the semantic IDs need, and the last position
is the last real one. A model here has no table of users: the user drawn for item indexing is the mean of the
collaborative vectors of some of its other items. The item's own vector is what its semantic ID was clustered from, and
would give the answer away.
"""

from typing import ClassVar, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from genrec.config.ranges import Codes, Few, HistoryLength, Weight
from genrec.errors import ConfigError
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    GenrecConfig,
    ModelInputs,
    RecommenderModel,
    TrainingOutput,
)
from genrec.models.families.seq2seq import PADDING, Seq2Seq, Seq2SeqSettings
from genrec.models.layers.hashed_words import hash_words
from genrec.models.layers.history import length_mask
from genrec.models.layers.items import ItemEmbedding
from genrec.models.layers.negatives import draw_unknown, first_usable
from genrec.models.layers.users import ItemUsers


class ColaRecSettings(Seq2SeqSettings):
    """Settings of the family."""

    use_texts: bool = Field(True, description="read the first words of each item")
    use_features: bool = Field(True, description="read a user of the item in item indexing, by collaborative vectors")
    item_words: Few = Field(12, description="words read of an item")
    word_buckets: Codes = Field(16_384, description="rows of the table of words, which words may share")
    history_size: HistoryLength = Field(10, description="items that a user is in training; later all are read")
    generation_weight: Weight = Field(0.08, description="of writing the next item's semantic ID")
    indexing_weight: Weight = Field(0.08, description="of writing an item's own semantic ID")
    bpr_weight: Weight = Field(1.0, description="of users nearer to their items than to others")
    contrast_weight: Weight = Field(0.1, description="of items nearer to their siblings than to others")

    @property
    def unread(self) -> dict[str, str]:
        """With what texts need."""
        names = () if self.use_texts else ("item_words", "word_buckets")
        return super().unread | dict.fromkeys(names, "use_texts: true")

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """Words and collaborative vectors where they are used; where users are read, who took which item."""
        texts: frozenset[CatalogueInput] = frozenset({"texts"} if self.use_texts else ())
        return texts | ({"features", "histories"} if self.use_features else set())


class ColaRec(Seq2Seq):
    """Contents in, codes out, in two tasks that share everything but a prompt."""

    Settings: ClassVar[type[BackboneSettings]] = ColaRecSettings
    settings: ColaRecSettings
    supports_experts = False
    needs_collaborative = True
    words: Tensor | None

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings = self.settings
        if self.num_levels < 2:
            raise ConfigError(
                "the recommender 'colarec' compares items that share all codes but the last, and these have one code",
                where="tokenizer",
                expected="semantic IDs of at least two codes",
                fix="set tokenizer.name=gid, or another tokenizer with levels",
            )
        self.items = ItemEmbedding(
            config.num_items, settings.hidden_size, use_ids=True, feature_size=config.feature_size
        )
        words = torch.zeros(config.num_items, settings.item_words, dtype=torch.int32) if settings.use_texts else None
        self.register_buffer("words", words)
        # Only training reads it.
        self.users: ItemUsers | None = None
        self._siblings: Siblings | None = None
        self.post_init()

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> RecommenderModel:
        """An untrained model with the catalogue's codes, collaborative vectors and words, and the items' users."""
        model = cast(ColaRec, super().build(config, materials))
        if materials.histories is not None:
            model.users = ItemUsers(materials.histories, config.num_items)
        if materials.texts is not None and model.words is not None:
            settings = model.settings
            words = hash_words(materials.texts.texts, settings.item_words, settings.word_buckets)
            model.words.copy_(torch.from_numpy(words))
        return model

    def vocabulary_size(self) -> int:
        """Codes, the prompts of the two tasks, words; items have a table of their own."""
        return self._first_word + (self.settings.word_buckets if self.settings.use_texts else 0)

    def forward(self, items: Tensor, lengths: Tensor, cuts: Tensor | None = None) -> TrainingOutput:
        """The weighted losses of both tasks and both comparisons for drawn items of each history.

        In training a user is a set: some other items of the history in any order. Otherwise it is all items that are
        not the target, as when lists are made.
        """
        weights = self.settings
        # What is drawn for each place must not depend on how many of them are padding.
        items = items[:, : int(lengths.max())]
        rows, cuts = self._draw_targets(lengths) if cuts is None else self._given_targets(cuts)
        items, lengths, targets = items[rows], lengths[rows], items[rows, cuts]
        users, attention_mask = self._read_users(*self._other_items(items, lengths, targets))
        loss = weights.generation_weight * self.writing_loss(users, attention_mask, targets)
        if weights.indexing_weight or weights.bpr_weight or weights.contrast_weight:
            loss = loss + self._item_losses(last_state(users, attention_mask), items, lengths, targets)
        return self.training_output(loss)

    def history_tokens(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of what the encoder reads and attention mask, int64 ``[B, 1 + T * (1 + W)]``.

        The prompt, then the items, the newest first, each with its words.
        """
        place = torch.arange(items.shape[1], device=items.device)
        newest_first = items.gather(1, (lengths.unsqueeze(1) - 1 - place).clamp_min(0))
        tokens, attention_mask = self._content(newest_first)
        attention_mask = attention_mask & (place < lengths.unsqueeze(1)).unsqueeze(2)
        return self._prompted(self._first_word - 2, tokens.flatten(1), attention_mask.flatten(1))

    def embed_history(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors ``[B, S, D]`` of prompts, words and items by number."""
        item = tokens - self.t5.config.vocab_size
        ids = cast(nn.Embedding, self.items.ids)
        others = self.t5.shared(tokens.clamp_max(self.t5.config.vocab_size - 1))
        return torch.where((item >= 0).unsqueeze(-1), ids(item.clamp_min(0)), others)

    @property
    def _first_word(self) -> int:
        return super().vocabulary_size() + 2

    def _content(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers ``[..., 1 + W]`` of items and their words, and where there is one, bool."""
        tokens = (items + self.t5.config.vocab_size).unsqueeze(-1)
        if self.words is not None:
            tokens = torch.cat([tokens, self.words[items].long() + self._first_word], dim=-1)
        mask = tokens >= self._first_word
        return tokens.masked_fill(~mask, PADDING), mask

    def _prompted(self, prompt: int, tokens: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.full_like(tokens[:, :1], prompt)
        return torch.cat([first, tokens], dim=1), torch.cat([torch.ones_like(first), attention_mask.long()], dim=1)

    def _read_users(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        tokens, attention_mask = self.history_tokens(items, lengths)
        return self._encode(self.embed_history(tokens, attention_mask), attention_mask), attention_mask

    def _read_items(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's outputs ``[n, S, D]`` for item indexing of ``items [n]``, and the mask.

        After the content is a user of the item; masked where it has none, or only the item, and after training.
        """
        tokens, attention_mask = self._prompted(self._first_word - 1, *self._content(items))
        vectors = self.embed_history(tokens, attention_mask)
        if self.items.projection is not None and self.items.features is not None:
            others, known = items.unsqueeze(1), torch.zeros_like(items, dtype=torch.bool).unsqueeze(1)
            if self.users is not None:
                others, known = self.users.draw(items, self.settings.history_size)
            taste = (self.items.features[others] * known.unsqueeze(-1)).sum(1) / known.sum(1, keepdim=True).clamp_min(1)
            vectors = torch.cat([vectors, self.items.projection(taste).unsqueeze(1)], dim=1)
            attention_mask = torch.cat([attention_mask, known.any(1, keepdim=True).long()], dim=1)
        return self._encode(vectors, attention_mask), attention_mask

    def _encode(self, vectors: Tensor, attention_mask: Tensor) -> Tensor:
        return cast(Tensor, self.t5.encoder(inputs_embeds=vectors, attention_mask=attention_mask).last_hidden_state)

    def _draw_targets(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # A set has no first item: any may be asked for.
        if self.settings.targets == "last":
            return super()._draw_targets(lengths)
        rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(self.settings.targets_per_user)
        drawn = (torch.rand(len(rows), device=lengths.device) * lengths[rows]).long()
        return rows, drawn.minimum(lengths[rows] - 1)

    def _other_items(self, items: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The items that a user is without the target, int64 ``[n, T]`` and how many, ``[n]``."""
        others = length_mask(lengths, items.shape[1]) & (items != targets.unsqueeze(1))
        counts = others.sum(1)
        keys = torch.zeros(items.shape, device=items.device)
        if self.training:
            keys, counts = torch.rand_like(keys), counts.clamp_max(self.settings.history_size)
        return items.gather(1, keys.masked_fill(~others, 2).argsort(dim=1, stable=True)), counts

    def _item_losses(self, users: Tensor, items: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Item indexing and both comparisons, for targets ``[n]`` of users with states ``[n, D]``."""
        weights = self.settings
        siblings, related = self._draw_siblings(targets)
        negatives, found = self._draw_negatives(items, lengths, targets)
        states, attention_mask = self._read_items(torch.cat([targets, negatives, siblings]))
        positive, negative, sibling = last_state(states, attention_mask).chunk(3)
        named = torch.cat([torch.ones_like(found), found]).nonzero()[:, 0]
        own = self.writing_loss(states[named], attention_mask[named], torch.cat([targets, negatives])[named])
        # The paper adds up the losses of writing both, each a mean.
        loss = 2 * weights.indexing_weight * own
        loss = loss + weights.bpr_weight * ranking_loss(users, positive, negative, found)
        return loss + weights.contrast_weight * ranking_loss(positive, sibling, negative, found & related)

    def _draw_negatives(self, items: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """For each target ``[n]`` an item that its user lacks and that is no sibling, and whether draws found one."""
        drawn, unknown = draw_unknown(items, lengths, self.config.num_items)
        group = self._relations().group
        return first_usable(drawn, unknown & (group[drawn] != group[targets].unsqueeze(1)))

    def _draw_siblings(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Another item for each of ``targets [n]`` with all codes but the last in common, and whether there is one."""
        known = self._relations()
        size = known.size[targets]
        step = 1 + (torch.rand(len(targets), device=targets.device) * (size - 1)).long()
        place = (known.rank[targets] + torch.minimum(step, size - 1)) % size
        return known.order[known.start[targets] + place], size > 1

    def _relations(self) -> "Siblings":
        if self._siblings is None or self._siblings.group.device != self.item_codes.device:
            self._siblings = find_siblings(self.item_codes)
        return self._siblings

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ItemEmbedding) and module.ids is not None:
            # As large as the words of a T5, among which they are.
            nn.init.normal_(module.ids.weight)


class Siblings(NamedTuple):
    """Which items share all codes but the last, int64 ``[N]`` each.

    Attributes:
        group: Number of the group of each item.
        rank: Its place in the group.
        size: How many items are in it.
        start: Where the group begins in ``order``.
        order: The items, group after group.
    """

    group: Tensor
    rank: Tensor
    size: Tensor
    start: Tensor
    order: Tensor


def find_siblings(codes: Tensor) -> Siblings:
    """Group items by all codes but the last; ``codes`` is an integer ``[N, L]``."""
    group = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for level in codes[:, :-1].long().T:
        group = (group * (int(level.max()) + 2) + level + 1).unique(return_inverse=True)[1]
    counts = group.bincount()
    order, start = group.argsort(stable=True), (counts.cumsum(0) - counts)[group]
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return Siblings(group, place - start, counts[group], start, order)


def last_state(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The state at the last real position, ``[n, D]``, of ``states [n, S, D]`` with ``attention_mask [n, S]``."""
    last = (attention_mask * torch.arange(attention_mask.shape[1], device=attention_mask.device)).amax(1)
    return states[torch.arange(len(last), device=last.device), last]


def ranking_loss(anchor: Tensor, near: Tensor, far: Tensor, counted: Tensor) -> Tensor:
    """BPR (Rendle et al. 2009): -log sigmoid of how much more ``anchor [n, D]`` agrees with ``near`` than ``far``.

    Returns:
        The mean over rows where bool ``counted [n]``, float32; zero if there is none.
    """
    margins = (anchor * (near - far)).sum(-1).float()
    return -(logsigmoid(margins) * counted).sum() / counted.sum().clamp_min(1)
