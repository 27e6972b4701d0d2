"""A causal language model of ``transformers`` with semantic IDs added to its vocabulary.

After LC-Rec (Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for Recommendation",
ICDE 2024, sections 3.2 and 3.3) and the open re-implementations of OneRec: a history is written in semantic IDs after
a sentence, and tasks on texts (an item's text from its semantic ID, the semantic ID from the text, the title of what
comes next) teach the model what the new tokens mean.

Where this departs: a user's whole history is learned in one pass, every item from all before it, instead of one prompt
per target; the new rows are a table of their own, so that nothing else needs to move when only they and LoRA are
trained; a code is a softmax over its level's codebook, as in every family here, and a word one over the words.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.config.ranges import BatchSize, Codes, Heads, Layers, Positive, Rate, Weight, Width, WidthOrNone
from genrec.errors import ConfigError
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    Context,
    GenrecConfig,
    ItemTexts,
    ModelInputs,
    TrainingOutput,
)
from genrec.models.layers.codes import CodeSpace
from genrec.models.layers.history import gather_targets, length_mask, state_at
from genrec.models.layers.language import (
    input_vectors,
    language_model_like,
    learn_vectors,
    load_language_model,
    longest_sequence,
    output_vectors,
    read_vectors,
    small_language_model,
    step_beams,
)
from genrec.models.layers.lora import add_lora, merge_adapter
from genrec.models.layers.moe import Routing, routing_metrics
from genrec.models.layers.text_tokenizer import (
    NO_WORD,
    Joined,
    Piece,
    add_semantic_ids,
    encode_texts,
    join_pieces,
    load_words,
    train_words,
)
from genrec.models.layers.vocabulary_init import codebook_rows, mean_word_vectors
from genrec.models.text_model import TextModel, check_prompts, check_sizes

Task = Literal["item-to-text", "text-to-item", "history-to-title"]
PROMPTS = {
    "history": "Items that one person chose, one after another:",
    "item": "Item",
    "described": "is described as:",
    "text": "This is the description of an item:",
    "named": "Its semantic ID is",
    "title": "The title of the next item is:",
}
BEGINNINGS = ("history", "item", "text")


class LLMSettings(BackboneSettings):
    """Settings of the family; the sizes are those of a language model made from nothing."""

    backbone: str | None = Field(
        None, description="a pretrained causal language model by folder, GGUF file or name; a small one if null"
    )
    num_layers: Layers = 4
    num_heads: Heads = 4
    vocabulary_size: Codes = Field(4096, ge=300, description="words of a language model made from nothing")
    dropout: Rate = Field(0.0, description="on what the language model reads")
    new_rows: Literal["texts", "features", "random"] = Field(
        "texts", description="what new rows start from: the codebook among the items' words, or among their vectors"
    )
    text_tasks: tuple[Task, ...] = Field(
        ("item-to-text", "text-to-item", "history-to-title"), description="what ties semantic IDs to texts"
    )
    text_weight: Weight = Field(0.5, description="weight of these tasks; 0 leaves them out")
    text_rows: BatchSize = Field(16, description="examples of each task in a step")
    text_length: Width = Field(48, ge=4, description="words read of an item's text")
    lora_rank: WidthOrNone = Field(0, description="train low-rank matrices and the new rows only; 0 trains all weights")
    lora_alpha: Positive = 16.0
    adapter: str | None = Field(None, description="folder of a peft adapter of the backbone, to start from")

    @model_validator(mode="after")
    def _an_adapter_has_a_backbone(self) -> "LLMSettings":
        if self.adapter is not None and self.backbone is None:
            raise ValueError("adapter needs the language model that it was trained on: set recommender.backbone")
        return self

    @property
    def unread(self) -> dict[str, str]:
        """With what a backbone brings along, and what LoRA and the tasks on texts need."""
        unread = super().unread
        if self.backbone is not None:
            unread |= dict.fromkeys(
                ("feed_forward_size", "vocabulary_size"), "no backbone, which has a size of its own"
            )
        if not self.lora_rank:
            unread["lora_alpha"] = "lora_rank above 0"
        if not (self.text_weight and self.text_tasks):
            unread["text_rows"] = "text_weight above 0 and some text_tasks"
        if not self.text_weight:
            unread["text_tasks"] = "text_weight above 0"
        if "texts" not in self.reads:
            unread["text_length"] = "text_weight above 0, or new_rows: texts"
        return unread

    @property
    def writes_words(self) -> bool:
        """Whether any task asks for words."""
        return bool(self.text_weight and set(self.text_tasks) - {"text-to-item"})

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """Texts for tasks or for the rows of new tokens, item vectors for these rows alone."""
        texts = self.new_rows == "texts" or bool(self.text_weight and self.text_tasks)
        features: frozenset[CatalogueInput] = frozenset({"features"} if self.new_rows == "features" else ())
        return features | ({"texts"} if texts else set())


class LLM(TextModel):
    """A sentence and codes in, codes out."""

    Settings: ClassVar[type[BackboneSettings]] = LLMSettings
    settings: LLMSettings
    supports_gradient_checkpointing = True
    item_words: Tensor | None
    item_titles: Tensor | None

    def __init__(self, config: GenrecConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        settings, codes = self.settings, self.code_space.end
        self.lm = language_model_like(config.backbone or {}) if lm is None else lm
        width = input_vectors(self.lm).shape[1]
        # Tables of codes have no rows for words (code_space); a sequence numbers the codes after its words.
        self._token_space = CodeSpace(self.level_sizes, config.num_words)
        self.codes = nn.Embedding(codes, width)
        tied = self.lm.config.tie_word_embeddings
        self.code_head = None if tied else nn.Linear(output_vectors(self.lm).shape[1], codes, bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self._routings: list[Routing] = []
        # Only training reads them, and only a model that is made from texts has them.
        self.register_buffer("item_words", None, persistent=False)
        self.register_buffer("item_titles", None, persistent=False)
        self.post_init()
        if not (tied or settings.writes_words):
            # Nothing would ever reach it, which distributed training does not forgive.
            self.lm.get_output_embeddings().requires_grad_(False)
        if settings.lora_rank:
            add_lora(self.lm, settings.lora_rank, settings.lora_alpha)

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> "LLM":
        """Make or load the language model and its words, and add the semantic IDs.

        Raises:
            ConfigError: If the backbone cannot be used, has other sizes or fewer positions, or has semantic IDs
                already.
            ArtifactError: If an adapter is for another backbone.
        """
        settings, sizes, lm = LLMSettings(**(config.settings or {})), config.level_sizes or [], None
        if settings.backbone is None:
            texts = [] if materials.texts is None else materials.texts.texts
            words: PreTrainedTokenizerBase = train_words([*PROMPTS.values(), *texts], settings.vocabulary_size)
            config.backbone = _small_config(settings, len(words))
        else:
            lm, words = load_backbone(settings), load_words(settings.backbone)
            config.backbone = lm.config.to_dict()
        config.prompts = _encode_prompts(words)
        told = None if materials.texts is None else tabulate_texts(words, materials.texts, settings.text_length)
        config.num_words = add_semantic_ids(words, sizes)
        model = cls(config, lm)
        _check_room(model)
        model.words = words
        if told is not None:
            model.item_words, model.item_titles = told
        if materials.codes is not None:
            model.item_codes.copy_(torch.tensor(materials.codes))
        model.start_rows(materials)
        return model

    def take_parts(self, folder: Path) -> None:
        """Take the words of a model folder; the sentences that they write must be known.

        Raises:
            ArtifactError: If something is missing or damaged.
        """
        super().take_parts(folder)
        check_prompts(self.config, dict.fromkeys(PROMPTS, 1))

    @torch.no_grad()
    def start_rows(self, materials: ModelInputs) -> None:
        """Give the new rows the place of their codebook among the vectors of words; see :func:`codebook_rows`."""
        table, source = input_vectors(self.lm), self.settings.new_rows
        vectors = None
        if source == "texts" and self.item_words is not None:
            vectors = mean_word_vectors(table, self.item_words)
        if source == "features" and materials.features is not None:
            features = torch.tensor(materials.features)
            vectors = features @ torch.randn(features.shape[1], table.shape[1]) * features.shape[1] ** -0.5
        rows = codebook_rows(table[: self.config.num_words], vectors, self.item_codes.long(), self.level_sizes)
        self.codes.weight.copy_(rows)
        if self.code_head is not None and self.code_head.weight.shape == rows.shape:
            self.code_head.weight.copy_(rows)

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Predict every code from the codes before it; in training, with the tasks on texts."""
        tokens = self._history_tokens(items)
        first = len(self._prompts["history"]) - 1
        mask = length_mask(first + lengths * self.num_levels, tokens.shape[1] - 1)
        learned = learn_vectors(self.lm, self._embed(tokens[:, :-1]), mask)
        self._routings = learned.routings
        states = learned.states[:, first:].unflatten(1, (items.shape[1], self.num_levels))
        states, targets = gather_targets(states, items, lengths)
        loss = self._semantic_id_loss(states, targets) + learned.balance
        if self.training and self.settings.text_weight and self.item_words is not None:
            loss = loss + self.settings.text_weight * self.text_loss(items, lengths)
        return self.training_output(loss)

    def text_loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The mean over the tasks of the loss of some items of the catalogue, or of some histories of the batch."""
        losses = []
        for task in self.settings.text_tasks:
            if task == "history-to-title":
                losses.append(self._word_loss(self._next_titles(items, lengths)))
                continue
            described = self._draw_described(items.device)
            if task == "item-to-text":
                losses.append(self._word_loss(self._descriptions(described)))
            else:
                states, _, balance = self._learned_states(self._semantic_ids(described))
                states = states.unflatten(0, (len(described), -1))
                losses.append(self._semantic_id_loss(states, described) + balance)
        return torch.stack(losses).mean()

    def training_metrics(self) -> dict[str, Any]:
        """The loads of the backbone's experts over the histories of the last step, where it has any."""
        return routing_metrics(self._routings)

    def encode(self, items: Tensor, lengths: Tensor) -> Context:
        """Read each history once and keep its keys and values."""
        tokens = self._history_tokens(items)
        hidden, history = read_vectors(self.lm, self._embed(tokens), keep=True)
        positions = lengths * self.num_levels + len(self._prompts["history"])
        attention_mask = length_mask(positions, tokens.shape[1])
        return Context(state_at(hidden, positions - 1), history, attention_mask, positions)

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level``."""
        vectors = self.dropout(self.codes(codes + self.code_space.offsets[level]))
        positions = context.lengths + level
        hidden, context.beam_cache = step_beams(
            self.lm, vectors, positions, context.history, context.attention_mask, context.beam_cache
        )
        return hidden

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level``."""
        table = self.codes.weight if self.code_head is None else self.code_head.weight
        return linear(hidden, table[self.code_space.rows(level)])

    def _semantic_id_loss(self, states: Tensor, items: Tensor) -> Tensor:
        """The sum over levels of the loss of writing ``items [n]`` from ``states [n, L, D]``."""
        codes = self.item_codes[items].long()
        return self.code_space.loss(lambda level: self.code_logits(level, states[:, level]), codes)

    def _word_loss(self, joined: Joined) -> Tensor:
        """Mean cross-entropy over the learned words, in float32, and the balance of experts."""
        states, targets, balance = self._learned_states(joined)
        logits = linear(states, output_vectors(self.lm)[: self.config.num_words]).float()
        return cross_entropy(logits, targets, reduction="sum") / max(1, len(targets)) + balance

    def _learned_states(self, joined: Joined) -> tuple[Tensor, Tensor, Tensor]:
        """States ``[n, D]`` before the learned tokens, row by row, these tokens ``[n]``, and the balance of experts."""
        states, balance, _ = learn_vectors(self.lm, self._embed(joined.tokens[:, :-1]), joined.mask[:, 1:])
        learned = joined.learned[:, 1:]
        return states[learned], joined.tokens[:, 1:][learned], balance

    def _descriptions(self, items: Tensor) -> Joined:
        """``Item <codes> is described as: <words>``, the words learned."""
        words = _learned_words(self.item_words, items)
        return join_pieces(
            [self._prompt("item"), Piece(self._code_tokens(items)), self._prompt("described"), words], len(items)
        )

    def _semantic_ids(self, items: Tensor) -> Joined:
        """``This is the description of an item: <words> Its semantic_id is <codes>``, the codes learned."""
        words = _learned_words(self.item_words, items)._replace(learned=False)
        codes = Piece(self._code_tokens(items), learned=True)
        return join_pieces([self._prompt("text"), words, self._prompt("named"), codes], len(items))

    def _next_titles(self, items: Tensor, lengths: Tensor) -> Joined:
        """Histories, cut at random, and the title of the item after the cut, which is learned."""
        rows = torch.randperm(len(items), device=items.device)[: self.settings.text_rows]
        cuts = (torch.rand(len(rows), device=items.device) * lengths[rows]).long().clamp_max(lengths[rows] - 1)
        read = length_mask(cuts * self.num_levels, items.shape[1] * self.num_levels)
        codes = Piece(self._code_tokens(items[rows]).flatten(1), read)
        title = _learned_words(self.item_titles, items[rows, cuts])
        return join_pieces([self._prompt("history"), codes, self._prompt("title"), title], len(rows))

    def _draw_described(self, device: torch.device) -> Tensor:
        """Some items of the catalogue that have words, int64 ``[n]``."""
        described = (cast(Tensor, self.item_words)[:, 0] != NO_WORD).nonzero()[:, 0]
        return described[torch.randint(len(described), (self.settings.text_rows,), device=device)]

    def _history_tokens(self, items: Tensor) -> Tensor:
        """The sentence before a history and the codes of ``items [B, T]``, int64 ``[B, S]``."""
        sentence = self._prompt("history").tokens.expand(len(items), -1)
        return torch.cat([sentence, self._code_tokens(items).flatten(1)], dim=1)

    def _code_tokens(self, items: Tensor) -> Tensor:
        """Token ids ``[..., L]`` of dense item ids ``[...]``, after the words."""
        return self._token_space.token_ids(self.item_codes[items].long())

    def _embed(self, tokens: Tensor) -> Tensor:
        """Vectors ``[B, S, D]`` of words and codes."""
        words, codes = tokens.clamp_max(self.config.num_words - 1), (tokens - self.config.num_words).clamp_min(0)
        written = (tokens >= self.config.num_words).unsqueeze(-1)
        return self.dropout(torch.where(written, self.codes(codes), self.lm.get_input_embeddings()(words)))

    def _prompt(self, name: str) -> Piece:
        return Piece(torch.tensor(self._prompts[name], device=self.item_codes.device))

    @property
    def _prompts(self) -> dict[str, list[int]]:
        return self.config.prompts or {}


def load_backbone(settings: LLMSettings) -> PreTrainedModel:
    """The pretrained language model of the settings, its adapter merged.

    Raises:
        ConfigError: If it cannot be used or has other sizes.
        ArtifactError: If the adapter is for another one.
    """
    source = str(settings.backbone)
    lm = load_language_model(source)
    config = lm.config
    sizes = {
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
    }
    check_sizes(settings, sizes, source)
    return lm if settings.adapter is None else merge_adapter(lm, Path(settings.adapter))


def tabulate_texts(words: PreTrainedTokenizerBase, texts: ItemTexts, length: int) -> tuple[Tensor, Tensor]:
    """Word ids of texts and of titles, int32 ``[N, S]`` each; where an item has no title its text stands for it."""
    titles = [title or text for title, text in zip(texts.titles, texts.texts, strict=True)]
    return encode_texts(words, texts.texts, length), encode_texts(words, titles, length)


def _learned_words(table: Tensor | None, items: Tensor) -> Piece:
    tokens = cast(Tensor, table)[items].long()
    return Piece(tokens.clamp_min(0), tokens != NO_WORD, learned=True)


def _encode_prompts(words: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Word ids of the sentences; those that begin a sequence have the model's start before them, if it has one."""
    start = [] if words.bos_token_id is None else [words.bos_token_id]
    encoded = {name: list(words(text, add_special_tokens=False)["input_ids"]) for name, text in PROMPTS.items()}
    return {name: start + ids if name in BEGINNINGS else ids for name, ids in encoded.items()}


def _small_config(settings: LLMSettings, words: int) -> dict[str, Any]:
    return small_language_model(
        words=words,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        inner=settings.feed_forward_size or 2 * settings.hidden_size,
    ).to_dict()


def _check_room(model: LLM) -> None:
    """Refuse a backbone whose words have no vectors, or that cannot read what the settings ask for."""
    source, rows = model.settings.backbone, len(input_vectors(model.lm))
    if model.config.num_words > rows:
        raise ConfigError(
            f"the words of {source!r} are {model.config.num_words}, its language model has vectors for {rows}",
            where="recommender.backbone",
            expected="a language model with its own tokenizer",
            fix="correct the folder",
        )
    settings, most = model.settings, longest_sequence(model.lm)
    needed = (settings.max_history + 1) * model.num_levels + sum(map(len, model._prompts.values()))
    needed += settings.text_length if settings.text_weight else 0
    if most is not None and needed > most:
        raise ConfigError(
            f"max_history {settings.max_history} needs {needed} positions, the backbone {source!r} has {most}",
            where="recommender.max_history",
            expected=f"at most {most} positions",
            fix="lower recommender.max_history or recommender.text_length, or choose another backbone",
        )
