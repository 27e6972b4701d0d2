"""A frozen language model that reads collaborative vectors: soft tokens beside titles, learned in two stages.

After Kim et al., "Large Language Models meet Collaborative Filtering" (A-LLMRec, KDD 2024, 2404.11343, section 3). A
trained SASRec knows what is chosen together and stays as it is. *First stage* (``stage: align``): an autoencoder of its
item vectors and one of text vectors learn latents that agree, while the rebuilt item vectors still recommend. *Second
stage* (``stage: prompt``): a prompt tells titles, each followed by its item's latent as one soft token, behind a soft
token for the user; two projections learn soft tokens after which a frozen causal language model writes the next title.
Items without a training interaction are known by the latent of their text, in both stages.

Where the authors' code departs from the method this does not: the target is never drawn as another candidate, cold
items have their path, and an item is ranked by the probability of its whole title and the end behind it instead of by
whether its title occurs in generated text.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss, pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.config.ranges import Few, FewOrNone, HistoryLength, Rate, Weight, Width
from genrec.errors import ArtifactError, ConfigError
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    GenrecConfig,
    ItemScorer,
    ModelInputs,
    RecommenderModel,
    TrainingOutput,
)
from genrec.models.families.sasrec import SASRec
from genrec.models.layers.aligner import Aligner, projection, with_one
from genrec.models.layers.history import draw_cuts, gather_targets, length_mask, state_at
from genrec.models.layers.language import (
    language_model_like,
    load_language_model,
    longest_sequence,
    read_vectors,
    step_beams,
)
from genrec.models.layers.negatives import draw_unknown, first_usable
from genrec.models.layers.text_tokenizer import NO_WORD, Joined, Piece, encode_texts, join_pieces, load_words
from genrec.models.registry import load_recommender
from genrec.models.text_model import check_prompts, check_sizes

# What the language model reads besides titles; the user's soft token stands first.
SENTENCES = {
    "opening": " is the taste of a person who has chosen",
    "between": ",",
    "offer": ". Of these the person will choose one:",
    "closing": ". The person's next choice is",
}
NAMELESS = "an item without a name"
# Titles that go through the language model side by side, and users times positions, when lists are made.
TITLES_AT_ONCE, POSITIONS_AT_ONCE = 64, 8192
SIZES = ("hidden_size", "num_layers", "num_heads", "feed_forward_size", "max_history")
BEFORE = {
    "collaborative": (
        "sasrec",
        "a trained sasrec",
        "train one on this data set (genrec run CONFIG --set recommender='{name: sasrec}' --out runs/cf) and set "
        "recommender.collaborative=runs/cf/model; the folder baselines/sasrec of another run will do",
    ),
    "aligned": (
        "allmrec",
        "a model of the first stage",
        "train it (genrec run CONFIG --set recommender.stage=align --out runs/aligned) and set "
        "recommender.aligned=runs/aligned/model",
    ),
}


class AllmRecSettings(BackboneSettings):
    """Settings of the family; the sizes, and how many items are read, are those of the SASRec and need not be said."""

    dropout: Rate = Field(0.0, description="prompt: on soft tokens")
    stage: Literal["align", "prompt"] = Field("align", description="which of the two stages is trained")
    collaborative: str | None = Field(None, description="align: folder of a trained sasrec")
    aligned: str | None = Field(None, description="prompt: model folder of the first stage")
    backbone: str | None = Field(None, description="prompt: a causal language model by folder, GGUF file or name")
    latent_size: Width = Field(128, description="width in which items and texts agree")
    match_weight: Weight = Field(1.0, description="align: of latents that agree")
    item_weight: Weight = Field(0.5, description="align: of item vectors rebuilt")
    text_weight: Weight = Field(0.2, description="align: of text vectors rebuilt")
    targets: Literal["uniform", "last"] = Field("last", description="prompt: which item of a history is asked for")
    prompt_items: HistoryLength = Field(10, description="prompt: items of the history that are told")
    title_words: Few = Field(16, description="prompt: subwords of a title")
    candidates: FewOrNone = Field(
        20, description="prompt: items offered, the best of the first stage; 0 offers none and scores all"
    )

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """The first stage reads text vectors and which items have a training interaction, the second has both from it.

        The second stage tells titles.
        """
        return frozenset({"features", "histories"} if self.stage == "align" else {"texts"})

    @property
    def sources(self) -> tuple[str, ...]:
        """Model folders that must have been trained on the data set that this one is trained on."""
        return tuple(path for path in (self.collaborative, self.aligned) if path is not None)


class AllmRec(ItemScorer):
    """Titles and soft tokens in, the probability of titles out; in the first stage collaborative scores."""

    Settings: ClassVar[type[BackboneSettings]] = AllmRecSettings
    settings: AllmRecSettings
    features: Tensor
    seen: Tensor
    titles: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings, width = self.settings, self.settings.hidden_size
        self.collaborative = SASRec(GenrecConfig(**(config.collaborative or {})))
        self.aligner = Aligner(width + 1, config.feature_size, settings.latent_size)
        self.register_buffer("features", torch.zeros(config.num_items, config.feature_size))
        self.register_buffer("seen", torch.zeros(config.num_items, dtype=torch.bool))
        self.language: PreTrainedModel | None = None
        if settings.stage == "prompt":
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
        """A stage on top of what was trained before it.

        Raises:
            ConfigError: If what the stage builds on is not named, is something else or does not fit.
            ArtifactError: If a folder cannot be used, or knows another number of items.
        """
        settings = AllmRecSettings(**(config.settings or {}))
        if settings.stage == "align":
            return _first_stage(config, settings, materials)
        return _second_stage(config, settings, materials)

    def take_parts(self, folder: Path) -> None:
        """The second stage's sentences must be known.

        Raises:
            ArtifactError: If one is missing or damaged.
        """
        super().take_parts(folder)
        if self.settings.stage == "prompt":
            check_prompts(self.config, dict.fromkeys((*SENTENCES, "start", "end"), 1))

    def train(self, mode: bool = True) -> "AllmRec":
        """Training mode for what learns; what is frozen has no dropout and no gradients."""
        super().train(mode)
        for part in self._frozen():
            part.requires_grad_(False).eval()
        return self

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """The first stage's loss at every position of the histories, or minus log p(title) of one item of each."""
        if self.settings.stage == "align":
            return self.training_output(self._alignment_loss(items, lengths))
        cuts = lengths - 1 if self.settings.targets == "last" else draw_cuts(lengths)
        targets = items[torch.arange(len(items), device=items.device), cuts].unsqueeze(1)
        offered = self._draw_offer(items, lengths, targets)
        return self.training_output(-self._title_log_likelihood(items, cuts, targets[:, 0], offered))

    def count_targets(self, lengths: Tensor) -> int:
        """How many items the loss of such a batch is the mean over."""
        return int(lengths.sum()) if self.settings.stage == "align" else len(lengths)

    def score_items(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Score the whole catalogue, float32 ``[B, N]``.

        In the second stage the best items of the first that are not in the history are offered and ranked by log
        p(title), all others below them; without ``candidates`` every item is ranked by log p(title).
        """
        scores = self.collaborative_scores(items, lengths)
        if self.settings.stage == "align":
            return scores
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

    def collaborative_scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """What the first stage says: products of the user's state with rebuilt item vectors, float32 ``[B, N]``.

        The vector of an item without a training interaction is rebuilt from its text.
        """
        state = state_at(self.collaborative.read(items, lengths), lengths)
        everything = torch.arange(self.config.num_items, device=items.device)
        return (with_one(state) @ self.aligner.rebuild_items(self.latents(everything)).T).float()

    def score_candidates(self, items: Tensor, lengths: Tensor, candidates: Tensor) -> Tensor:
        """Log p(title and its end), natural, of ``candidates [B, C]`` after each history, float32 ``[B, C]``.

        With the setting ``candidates`` the prompt offers these very items, in the order of their numbers.
        """
        offered = candidates.sort(dim=1).values if self.settings.candidates else None
        prompt, state = self._prompt(items, lengths, offered), self._state(items, lengths)
        rows = max(1, POSITIONS_AT_ONCE // (prompt.tokens.shape[1] + min(TITLES_AT_ONCE, candidates.shape[1])))
        parts = []
        for part in torch.arange(len(items), device=items.device).split(rows):
            mask = prompt.mask[part]
            vectors = self._embed(prompt.tokens[part], state[part])
            hidden, history = read_vectors(self._language(), vectors, keep=True)
            last = hidden[torch.arange(len(part), device=items.device), mask.sum(1) - 1]
            blocks = candidates[part].split(TITLES_AT_ONCE, dim=1)
            parts.append(torch.cat([self._score_titles(block, last, history, mask) for block in blocks], dim=1))
        return torch.cat(parts)

    def vectors(self, items: Tensor) -> Tensor:
        """The SASRec's vectors of ``items [...]`` with their biases as one more number, ``[..., D + 1]``."""
        source = self.collaborative
        return torch.cat([source.items(items), source.item_bias[items].unsqueeze(-1)], dim=-1)

    def latents(self, items: Tensor) -> Tensor:
        """``[..., d]``: of an item's vector where it has a training interaction, else of its text."""
        warm, cold = self.aligner.read_items(self.vectors(items)), self.aligner.read_texts(self.features[items])
        return torch.where(self.seen[items].unsqueeze(-1), warm, cold)

    def _alignment_loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        weights, rows = self.settings, length_mask(lengths, items.shape[1]).nonzero()[:, 0]
        with torch.no_grad():
            states, targets = gather_targets(self.collaborative.read(items[:, :-1], lengths), items, lengths)
        others, found = first_usable(*draw_unknown(items[rows], lengths[rows], self.config.num_items))
        both = torch.stack([targets, others])
        wanted, texts = self.vectors(both), self.features[both]
        item_latents, text_latents = self.aligner.read_items(wanted), self.aligner.read_texts(texts)
        rebuilt = self.aligner.rebuild_items(item_latents)
        scores = (with_one(states) * rebuilt).sum(-1).float()
        recommending = -(logsigmoid(scores[0]).mean() + (logsigmoid(-scores[1]) * found).sum() / len(found))
        return (
            recommending
            + weights.match_weight * mse_loss(item_latents, text_latents)
            + weights.item_weight * mse_loss(rebuilt, wanted)
            + weights.text_weight * mse_loss(self.aligner.rebuild_texts(text_latents), texts)
        )

    def _title_log_likelihood(self, items: Tensor, lengths: Tensor, targets: Tensor, offered: Tensor | None) -> Tensor:
        """The mean over users of log p(title of ``targets [B]``), its end included."""
        prompt = self._prompt(items, lengths, offered)
        title = self._ended_titles(targets)
        pieces = [Piece(prompt.tokens, prompt.mask), Piece(title.clamp_min(0), title != NO_WORD, learned=True)]
        joined = join_pieces(pieces, len(items))
        hidden, _ = read_vectors(self._language(), self._embed(joined.tokens, self._state(items, lengths)))
        asked = joined.learned[:, 1:]
        values = self._word_log_probabilities(hidden[:, :-1][asked])
        return values.gather(1, joined.tokens[:, 1:][asked].unsqueeze(1)).sum() / len(items)

    def _score_titles(self, candidates: Tensor, last: Tensor, history: list[Any], mask: Tensor) -> Tensor:
        """Log p of the titles of ``candidates [b, C]``, which go on side by side behind prompts that they share."""
        titles, lengths = self._ended_titles(candidates), mask.sum(1)
        total = self._word_log_probabilities(last).gather(1, titles[:, :, 0])
        own = None
        for step in range(int((titles != NO_WORD).sum(2).max()) - 1):
            words, following = titles[:, :, step].clamp_min(0), titles[:, :, step + 1]
            vectors = word_vectors(self._language())(words)
            hidden, own = step_beams(self._language(), vectors, lengths + step, history, mask, own)
            values = self._word_log_probabilities(hidden).gather(2, following.clamp_min(0).unsqueeze(2))[:, :, 0]
            total = total + values.masked_fill(following == NO_WORD, 0)
        return total

    def _prompt(self, items: Tensor, lengths: Tensor, offered: Tensor | None) -> Joined:
        """Words, and behind them the numbers of items and of the user, ``[B, S]``."""
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
        vectors = word_vectors(self._language())(tokens.clamp_max(self._first_item - 1))
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

    def _state(self, items: Tensor, lengths: Tensor) -> Tensor:
        return state_at(self.collaborative.read(items, lengths), lengths)

    def _ended_titles(self, items: Tensor) -> Tensor:
        """Words of the titles of items ``[...]`` and the end, int64 ``[..., W + 1]``; -1 behind it."""
        titles = pad(self.titles[items].long(), (0, 1), value=NO_WORD)
        ends = (titles != NO_WORD).sum(-1, keepdim=True)
        return titles.scatter(-1, ends, int((self.config.prompts or {})["end"][0]))

    def _word_log_probabilities(self, hidden: Tensor) -> Tensor:
        head = cast(nn.Module, self._language().get_output_embeddings())
        return head(hidden).log_softmax(-1, dtype=torch.float32)

    def _words(self, name: str) -> Piece:
        return Piece(torch.tensor((self.config.prompts or {})[name], dtype=torch.long, device=self.device))

    def _language(self) -> PreTrainedModel:
        if self.language is None:
            raise TypeError("the first stage has no language model")
        return self.language

    @property
    def _first_item(self) -> int:
        return int(self.config.num_words)

    def _frozen(self) -> list[nn.Module]:
        return [self.collaborative] if self.language is None else [self.collaborative, self.aligner, self.language]


def word_vectors(language: PreTrainedModel) -> nn.Embedding:
    """The table of words that a language model reads."""
    return cast(nn.Embedding, language.get_input_embeddings())


def _first_stage(config: GenrecConfig, settings: AllmRecSettings, materials: ModelInputs) -> AllmRec:
    source = cast(SASRec, _open_part("collaborative", settings.collaborative, config.num_items))
    sizes = {name: getattr(source.settings, name) for name in SIZES}
    check_sizes(settings, sizes, str(settings.collaborative))
    kept = ("family", "settings", "num_items", "feature_size")
    config.collaborative = {name: getattr(source.config, name) for name in kept}
    config.settings = {**(config.settings or {}), **sizes}
    if materials.features is None or materials.histories is None:
        raise TypeError("the first stage reads item vectors and which items were taken")
    config.feature_size = materials.features.shape[1]
    model = AllmRec(config)
    model.collaborative.load_state_dict(source.state_dict())
    model.features.copy_(torch.tensor(materials.features))
    # From the data and not from the batches that pass: each of several processes sees only some of these.
    model.seen[torch.tensor(materials.histories.items, dtype=torch.int64)] = True
    return model


def _second_stage(config: GenrecConfig, settings: AllmRecSettings, materials: ModelInputs) -> AllmRec:
    source = cast(AllmRec, _open_part("aligned", settings.aligned, config.num_items))
    sizes = {name: getattr(source.settings, name) for name in (*SIZES, "latent_size")}
    check_sizes(settings, sizes, str(settings.aligned))
    language, words = _load_backbone(settings)
    config.collaborative, config.feature_size = source.config.collaborative, source.config.feature_size
    config.settings = {**(config.settings or {}), **sizes}
    config.backbone = language.config.to_dict()
    config.num_words = word_vectors(language).num_embeddings
    config.prompts = _encode_sentences(words, settings)
    _check_room(language, config.prompts, settings)
    model = AllmRec(config)
    model.load_state_dict(source.state_dict(), strict=False)
    model._language().load_state_dict(language.state_dict())
    texts = materials.texts
    if texts is None:
        raise TypeError("the second stage tells titles")
    named = [title or text or NAMELESS for title, text in zip(texts.titles, texts.texts, strict=True)]
    titles = encode_texts(words, [f" {name}" for name in named], settings.title_words, ended=False)
    model.titles.copy_(pad(titles, (0, settings.title_words - titles.shape[1]), value=NO_WORD))
    return model


def _open_part(setting: str, path: str | None, num_items: int) -> RecommenderModel:
    """A trained model that a stage builds on."""
    family, what, fix = BEFORE[setting]
    if path is None:
        raise ConfigError(
            f"the recommender 'allmrec' builds on {what} and none is given",
            where=f"recommender.{setting}",
            expected="its model folder",
            fix=fix,
        )
    model = load_recommender(Path(path))
    later = isinstance(model.settings, AllmRecSettings) and model.settings.stage != "align"
    if model.config.family != family or later:
        raise ConfigError(
            f"{path} holds the recommender {model.config.family!r}"
            + (", second stage" if model.config.family == family else ""),
            where=f"recommender.{setting}",
            expected=what,
            fix=fix,
        )
    if model.settings.side_inputs:
        raise ConfigError(
            f"{path} was trained with {', '.join(model.settings.side_inputs)}, which 'allmrec' does not read",
            where=f"recommender.{setting}",
            expected=f"{what} that reads items alone",
            fix=f"train it again with {model.settings.side_inputs[0]}: false",
        )
    if model.config.num_items != num_items:
        raise ArtifactError(
            f"the model in {path} knows {model.config.num_items} items, the data set has {num_items}",
            where=f"recommender.{setting}",
            fix="train it on this data set",
        )
    return model


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
