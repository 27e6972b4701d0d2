"""The second stage of ``allmrec``: a frozen language model reads titles and soft tokens and writes the next title.

The method and its source are described in :mod:`genrec.models.families.allmrec`.

- Only two small projections learn; the price is that the language model runs for every training step and every list.
- Titles of candidates share one read prompt: they go through the language model as beams of their user.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.errors import ConfigError
from genrec.models.base import GenrecConfig, ModelInputs, RecommenderModel, TrainingOutput
from genrec.models.families.allmrec import SIZES, AllmRec, AllmRecSettings, open_source
from genrec.models.layers.aligner import projection
from genrec.models.layers.history import draw_cuts, length_mask
from genrec.models.layers.language import (
    language_model_like,
    load_language_model,
    longest_sequence,
    read_vectors,
    step_beams,
)
from genrec.models.layers.text_tokenizer import NO_WORD, Joined, Piece, encode_texts, join_pieces, load_words
from genrec.models.text_model import check_prompts, check_sizes

# What the language model reads besides titles; the user's soft token is first.
SENTENCES = {
    "opening": " is the taste of a person who has chosen",
    "between": ",",
    "offer": ". Of these the person will choose one:",
    "closing": ". The person's next choice is",
}
NAMELESS = "an item without a name"
# Titles that go through the language model side by side, and users times positions, when lists are made.
TITLES_AT_ONCE, POSITIONS_AT_ONCE = 64, 8192


class PromptedAllmRec(AllmRec):
    """Titles and soft tokens in, the probability of titles out."""

    language: PreTrainedModel
    titles: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings, width = self.settings, self.settings.hidden_size
        self.language = language_model_like(config.backbone or {})
        size = word_vectors(self.language).embedding_dim
        self.user_projection = projection(width, size, nn.LeakyReLU())
        self.item_projection = projection(settings.latent_size, size, nn.GELU())
        self.dropout = nn.Dropout(settings.dropout)
        titles = torch.zeros(config.num_items, settings.title_words, dtype=torch.int32)
        self.register_buffer("titles", titles)
        self.post_init()
        self.train()

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> RecommenderModel:
        """An untrained second stage on top of a trained first one and a pretrained language model.

        Raises:
            ConfigError: If what the stage builds on is not named, is something else or does not fit.
            ArtifactError: If a folder cannot be used, or knows another number of items.
        """
        settings = AllmRecSettings(**(config.settings or {}))
        source = cast(AllmRec, open_source("aligned", settings.aligned, config.num_items))
        sizes = {name: getattr(source.settings, name) for name in (*SIZES, "latent_size")}
        check_sizes(settings, sizes, str(settings.aligned))
        language, words = _load_backbone(settings)
        config.collaborative, config.feature_size = source.config.collaborative, source.config.feature_size
        config.settings = {**(config.settings or {}), **sizes}
        config.backbone = language.config.to_dict()
        config.num_words = word_vectors(language).num_embeddings
        config.prompts = _encode_sentences(words, settings)
        _check_room(language, config.prompts, settings)
        model = cls(config)
        model.load_state_dict(source.state_dict(), strict=False)
        model.language.load_state_dict(language.state_dict())
        texts = materials.texts
        if texts is None:
            raise TypeError("the second stage tells titles")
        named = [title or text or NAMELESS for title, text in zip(texts.titles, texts.texts, strict=True)]
        titles = encode_texts(words, [f" {name}" for name in named], settings.title_words, ended=False)
        model.titles.copy_(pad(titles, (0, settings.title_words - titles.shape[1]), value=NO_WORD))
        return model

    def frozen_modules(self) -> list[nn.Module]:
        """All that was trained before: only the projections learn."""
        return [self.collaborative, self.aligner, self.language]

    def take_parts(self, folder: Path) -> None:
        """The stored sentences must be known.

        Raises:
            ArtifactError: If one is missing or damaged.
        """
        super().take_parts(folder)
        check_prompts(self.config, dict.fromkeys((*SENTENCES, "start", "end"), 1))

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Minus log p(title) of one item of each history."""
        cuts = lengths - 1 if self.settings.targets == "last" else draw_cuts(lengths)
        targets = items[torch.arange(len(items), device=items.device), cuts].unsqueeze(1)
        offered = self._draw_offer(items, lengths, targets)
        return self.training_output(-self._title_log_likelihood(items, cuts, targets[:, 0], offered))

    def count_targets(self, lengths: Tensor) -> int:
        """One item of each history."""
        return len(lengths)

    def score_items(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Score the whole catalogue, float32 ``[B, N]``.

        The best items of the first stage that are not in the history are offered and ranked by log p(title), all others
        below them; without ``candidates`` every item is ranked by log p(title).
        """
        scores = self.collaborative_scores(items, lengths)
        if not self.settings.candidates:
            everything = torch.arange(self.config.num_items, device=items.device).expand(len(items), -1)
            return self.score_candidates(items, lengths, everything)
        known = length_mask(lengths, items.shape[1])
        places = items.masked_fill(~known, self.config.num_items)
        hidden = pad(torch.zeros_like(scores), (0, 1)).scatter(1, places, float("-inf"))[:, :-1]
        likely = (scores + hidden).topk(min(self.settings.candidates, scores.shape[1])).indices
        named = self.score_candidates(items, lengths, likely)
        below = scores - scores.amax(1, keepdim=True) + named.amin(1, keepdim=True) - 1
        return below.scatter(1, likely, named)

    def score_candidates(self, items: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Log p(title and its end), natural, of ``candidates [B, C]`` after each history, float32 ``[B, C]``.

        With the setting ``candidates`` the prompt offers these very items, in the order of their numbers.
        """
        offered = candidates.sort(dim=1).values if self.settings.candidates else None
        prompt, state = self._prompt(items, lengths, offered), self.user_states(items, lengths)
        rows = max(1, POSITIONS_AT_ONCE // (prompt.tokens.shape[1] + min(TITLES_AT_ONCE, candidates.shape[1])))
        parts = []
        for part in torch.arange(len(items), device=items.device).split(rows):
            mask = prompt.mask[part]
            vectors = self._embed(prompt.tokens[part], state[part])
            hidden, history = read_vectors(self.language, vectors, keep=True)
            last = hidden[torch.arange(len(part), device=items.device), mask.sum(1) - 1]
            blocks = candidates[part].split(TITLES_AT_ONCE, dim=1)
            parts.append(torch.cat([self._score_titles(block, last, history, mask) for block in blocks], dim=1))
        return torch.cat(parts)

    def _title_log_likelihood(self, items: Tensor, lengths: Tensor, targets: Tensor, offered: Tensor | None) -> Tensor:
        """The mean over users of log p(title of ``targets [B]``), its end included."""
        prompt = self._prompt(items, lengths, offered)
        title = self._ended_titles(targets)
        pieces = [Piece(prompt.tokens, prompt.mask), Piece(title.clamp_min(0), title != NO_WORD, learned=True)]
        joined = join_pieces(pieces, len(items))
        hidden, _ = read_vectors(self.language, self._embed(joined.tokens, self.user_states(items, lengths)))
        asked = joined.learned[:, 1:]
        values = self._word_log_probabilities(hidden[:, :-1][asked])
        return values.gather(1, joined.tokens[:, 1:][asked].unsqueeze(1)).sum() / len(items)

    def _score_titles(self, candidates: Tensor, last: Tensor, history: list[Any], mask: Tensor) -> Tensor:
        """Log p of the titles of ``candidates [b, C]``, which go on side by side after prompts that they share."""
        titles, lengths = self._ended_titles(candidates), mask.sum(1)
        total = self._word_log_probabilities(last).gather(1, titles[:, :, 0])
        own = None
        for step in range(int((titles != NO_WORD).sum(2).max()) - 1):
            words, following = titles[:, :, step].clamp_min(0), titles[:, :, step + 1]
            vectors = word_vectors(self.language)(words)
            hidden, own = step_beams(self.language, vectors, lengths + step, history, mask, own)
            values = self._word_log_probabilities(hidden).gather(2, following.clamp_min(0).unsqueeze(2))[:, :, 0]
            total = total + values.masked_fill(following == NO_WORD, 0)
        return total

    def _prompt(self, items: Tensor, lengths: Tensor, offered: Tensor | None) -> Joined:
        """Words, and after them the numbers of items and of the user, ``[B, S]``."""
        told = min(self.settings.prompt_items, items.shape[1])
        counts = lengths.clamp_max(told)
        newest = (lengths - counts).unsqueeze(1) + torch.arange(told, device=items.device)
        recent = items.gather(1, newest.clamp_max(items.shape[1] - 1))
        user = torch.full((1,), self._first_item + self.config.num_items, device=items.device)
        pieces = [self._words("start"), Piece(user), self._words("opening"), self._list_items(recent, counts)]
        if offered is not None:
            everything = torch.full_like(counts, offered.shape[1])
            pieces += [self._words("offer"), self._list_items(offered, everything)]
        return join_pieces([*pieces, self._words("closing")], len(items))

    def _list_items(self, items: Tensor, counts: Tensor) -> Piece:
        """Title, soft token and comma of the first ``counts [B]`` of ``items [B, C]``."""
        titles, between = self.titles[items].long(), self._words("between").tokens.expand(*items.shape, -1)
        tokens = torch.cat([titles.clamp_min(0), (items + self._first_item).unsqueeze(2), between], dim=2)
        there = length_mask(counts, items.shape[1]).unsqueeze(2)
        followed = length_mask(counts - 1, items.shape[1]).unsqueeze(2)
        mask = torch.cat([there & (titles != NO_WORD), there, followed.expand_as(between)], dim=2)
        return Piece(tokens.flatten(1), mask.flatten(1))

    def _embed(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Vectors ``[B, S, D]`` of words, items and users, whose states are ``[B, d]``."""
        item = tokens - self._first_item
        is_user = item == self.config.num_items
        is_item = (item >= 0) & ~is_user
        vectors = word_vectors(self.language)(tokens.clamp_max(self._first_item - 1))
        soft = self.dropout(self.item_projection(self.latents(item[is_item]))).to(vectors.dtype)
        users = self.dropout(self.user_projection(states)).to(vectors.dtype)
        vectors = vectors.masked_scatter(is_item.unsqueeze(2), soft)
        return torch.where(is_user.unsqueeze(2), users.unsqueeze(1), vectors)

    def _draw_offer(self, items: Tensor, lengths: Tensor, targets: Tensor) -> Tensor | None:
        """Each user's target among other items that the user does not have, ``[B, C]`` in the order of numbers."""
        if not self.settings.candidates:
            return None
        known = items.masked_fill(~length_mask(lengths, items.shape[1]), self.config.num_items)
        keys = torch.rand(len(items), self.config.num_items + 1, device=items.device).scatter(1, known, -1.0)
        keys = keys.scatter(1, targets, 2.0)[:, :-1]
        return keys.topk(min(self.settings.candidates, keys.shape[1])).indices.sort(dim=1).values

    def _ended_titles(self, items: Tensor) -> Tensor:
        """Words of the titles of items ``[...]`` and the end, int64 ``[..., W + 1]``; -1 after it."""
        titles = pad(self.titles[items].long(), (0, 1), value=NO_WORD)
        ends = (titles != NO_WORD).sum(-1, keepdim=True)
        return titles.scatter(-1, ends, int((self.config.prompts or {})["end"][0]))

    def _word_log_probabilities(self, hidden: Tensor) -> Tensor:
        head = cast(nn.Module, self.language.get_output_embeddings())
        return head(hidden).log_softmax(-1, dtype=torch.float32)

    def _words(self, name: str) -> Piece:
        return Piece(torch.tensor((self.config.prompts or {})[name], dtype=torch.long, device=self.device))

    @property
    def _first_item(self) -> int:
        return int(self.config.num_words)


def word_vectors(language: PreTrainedModel) -> nn.Embedding:
    """The table of words that a language model reads."""
    return cast(nn.Embedding, language.get_input_embeddings())


def _load_backbone(settings: AllmRecSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if settings.backbone is None:
        raise ConfigError(
            "the recommender 'allmrec' prompts a language model and none is given",
            where="recommender.backbone",
            expected="a causal language model by folder, GGUF file or name",
            fix="set recommender.backbone, such as facebook/opt-1.3b",
        )
    language, words = load_language_model(settings.backbone), load_words(settings.backbone)
    rows = word_vectors(language).num_embeddings
    if words.eos_token_id is None or len(words) > rows:
        raise ConfigError(
            f"the words of {settings.backbone!r} do not fit its model: {len(words)} words, {rows} vectors, "
            f"the end is {words.eos_token!r}",
            where="recommender.backbone",
            expected="a vector for each word, and a word that ends a text",
            fix="choose another backbone",
        )
    return language, words


def _encode_sentences(words: PreTrainedTokenizerBase, settings: AllmRecSettings) -> dict[str, Any]:
    encoded = {name: words(text, add_special_tokens=False)["input_ids"] for name, text in SENTENCES.items()}
    start = [] if words.bos_token_id is None else [words.bos_token_id]
    return {**encoded, "start": start, "end": [words.eos_token_id]}


def _check_room(language: PreTrainedModel, prompts: dict[str, Any], settings: AllmRecSettings) -> None:
    fixed = sum(len(prompts[name]) for name in ("start", "opening", "offer", "closing"))
    items = settings.prompt_items + settings.candidates
    needed = fixed + 1 + items * (settings.title_words + 1 + len(prompts["between"])) + settings.title_words
    room = longest_sequence(language)
    if room is not None and needed > room:
        raise ConfigError(
            f"prompts of up to {needed} positions do not fit the backbone {settings.backbone!r}, which reads {room}",
            where="recommender",
            expected=f"at most {room}",
            fix="lower recommender.prompt_items, recommender.candidates or recommender.title_words",
        )
