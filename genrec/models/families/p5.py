"""Text-to-text recommendation: a T5 reads a sentence about a history, in which items are as semantic IDs.

After Hua et al., "How to Index Item IDs for Recommendation Foundation Models" (2305.06569, sections 3 and 4) on P5
(Geng et al. 2022): the setting in which that paper compares semantic IDs. One of several sentences is drawn per user in
training, the first one writes lists. Semantic IDs are extra vocabulary after the words; all pieces of a word, and all
pieces of an item's ``item_...``, carry the same whole-word embedding, which tells where one item ends.

Batches know no users, so the sentences name none (theirs say ``user_17``), and the target is the semantic ID without
the word ``item_`` before it, which would be the same for all.
"""

from pathlib import Path
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from genrec.config.ranges import Few
from genrec.errors import ConfigError
from genrec.models.base import BackboneSettings, GenrecConfig, ModelInputs, RecommenderModel
from genrec.models.families.seq2seq import END, PADDING, Seq2Seq, Seq2SeqSettings
from genrec.models.layers.codes import NO_CODE, CodeSpace
from genrec.models.layers.history import length_mask
from genrec.models.layers.language import without_code
from genrec.models.layers.text_tokenizer import (
    Piece,
    add_semantic_ids,
    join_pieces,
    load_words,
    loading,
    locate_backbone,
    train_words,
)
from genrec.models.text_model import TextModel, check_prompts, check_sizes

SENTENCES = (
    "A person has chosen {history} so far . What comes next ?",
    "After {history} , which item will be chosen ?",
    "Given the items {history} in this order , predict the next one .",
    "Here is a history of choices : {history} . Recommend the item that follows .",
    "Somebody took {history} one after another . The next item is",
    "Continue this list of items : {history}",
    "These were chosen , oldest first : {history} . Which one follows ?",
    "Recommend one more item to somebody who has {history} .",
    "What would a person who chose {history} want now ?",
    "The choices up to today are {history} . Tell the next choice .",
)
ITEM, BETWEEN = "item_", ","
WHOLE_WORDS = 512
# What is around a history, of every sentence, and around an item.
PROMPT_DIMENSIONS = {"before": 2, "after": 2, "item": 1, "between": 1}


class P5Settings(Seq2SeqSettings):
    """Settings of the family; the sizes are those of a T5 made from nothing."""

    backbone: str | None = Field(None, description="a pretrained T5 by folder, GGUF file or name; from nothing if null")
    sentences: Few = Field(len(SENTENCES), ge=1, le=len(SENTENCES), description="sentences that training draws from")


class P5(TextModel, Seq2Seq):
    """A sentence in, the codes of the next item out."""

    Settings: ClassVar[type[BackboneSettings]] = P5Settings
    settings: P5Settings
    supports_experts = False
    starts_word: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.register_buffer("starts_word", torch.zeros(self.vocabulary_size(), dtype=torch.bool))
        self.whole_words = WholeWords(WHOLE_WORDS, self.t5.model_dim)
        self.post_init()

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> RecommenderModel:
        """Make or load the words and the T5, and put the semantic IDs after its vocabulary.

        Raises:
            ConfigError: If the backbone cannot be loaded, is not a T5, has other sizes or has semantic IDs already.
        """
        settings = P5Settings(**(config.settings or {}))
        pretrained = None if settings.backbone is None else load_t5(settings.backbone)
        words = train_words(_own_texts(), 1024) if settings.backbone is None else load_words(settings.backbone)
        config.prompts = encode_sentences(words)
        config.num_words = add_semantic_ids(words, config.level_sizes or [])
        if pretrained is not None:
            check_sizes(settings, sizes_of(pretrained.config), str(settings.backbone))
            rows = CodeSpace(config.level_sizes or [], config.num_words).end
            config.backbone = adapt_vocabulary(pretrained, config.num_words, rows)
            config.backbone["dropout_rate"] = settings.dropout
        model = cast(P5, super().build(config, materials))
        model.words = words
        if pretrained is not None:
            model.t5.load_state_dict(pretrained.state_dict())
        model.starts_word.copy_(model._find_starts(words))
        return model

    def take_parts(self, folder: Path) -> None:
        """Take the words of a model folder; where words start is found again in them.

        Raises:
            ArtifactError: If something is missing or damaged, or the sentences cannot be read.
        """
        super().take_parts(folder)
        check_prompts(self.config, PROMPT_DIMENSIONS)
        if self.words is not None:
            self.starts_word.copy_(self._find_starts(self.words))

    def t5_config(self) -> T5Config:
        """The pretrained T5's, or one that the settings describe."""
        if self.config.backbone is None:
            return super().t5_config()
        return T5Config(**without_code(self.config.backbone))

    @property
    def first_code(self) -> int:
        """Row of the first code, after the words."""
        return int(self.config.num_words)

    def history_tokens(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of a sentence about each history, int64 ``[B, S]``."""
        batch, device = len(items), items.device
        choices = self.settings.sentences if self.training else 1
        drawn = torch.randint(choices, (batch,), device=device)
        before, after = (self._prompt(name, device)[drawn] for name in ("before", "after"))
        listed, mask = self._list_items(items, lengths)
        end = torch.full((1,), END, device=device)
        pieces = [Piece(before, before != PADDING), Piece(listed, mask), Piece(after, after != PADDING), Piece(end)]
        joined = join_pieces(pieces, batch)
        return joined.tokens, joined.mask.long()

    def embed_history(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Word and code vectors, plus one for the place of the whole word that each belongs to; the end has place 0."""
        place = self.starts_word[tokens].long().cumsum(1).clamp_max(WHOLE_WORDS - 1)
        place = place.masked_fill((attention_mask == 0) | (tokens == END), 0)
        return cast(Tensor, self.t5.shared(tokens) + self.whole_words(place))

    def _list_items(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``item_<codes> , item_<codes>``: tokens and whether they are there, ``[B, T * S]`` each."""
        codes = self.item_codes[items].long()
        item, between = (self._prompt(name, items.device).expand(*items.shape, -1) for name in ("item", "between"))
        tokens = torch.cat([item, self.code_tokens(codes), between], dim=2)
        there = length_mask(lengths, items.shape[1]).unsqueeze(2)
        followed = length_mask(lengths - 1, items.shape[1]).unsqueeze(2)
        mask = torch.cat(
            [there.expand_as(item), there & (codes != NO_CODE), followed.expand_as(between)],
            dim=2,
        )
        return tokens.flatten(1), mask.flatten(1)

    def _find_starts(self, words: PreTrainedTokenizerBase) -> Tensor:
        """Which tokens start a word, bool ``[V]``."""
        pieces = words.convert_ids_to_tokens(list(range(self.config.num_words)))
        starts = torch.zeros_like(self.starts_word)
        starts[: self.config.num_words] = torch.tensor([piece[:1] in ("▁", "Ġ") for piece in pieces])
        return starts

    def _prompt(self, name: str, device: torch.device) -> Tensor:
        return torch.tensor((self.config.prompts or {})[name], dtype=torch.long, device=device)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WholeWords):
            # As large as the vectors of a T5 made from nothing, to which they are added.
            nn.init.normal_(module.weight)


class WholeWords(nn.Embedding):
    """A vector for the first, second ... word of a sentence, which all pieces of that word share."""


def encode_sentences(words: PreTrainedTokenizerBase) -> dict[str, list[list[int]] | list[int]]:
    """Word ids of what is before and after a history in each sentence, padded, and around each item in it."""
    parts = [sentence.split("{history}") for sentence in SENTENCES]
    sides = {name: [_word_ids(words, part[side]) for part in parts] for name, side in (("before", 0), ("after", 1))}
    padded = {
        name: [row + [PADDING] * (max(map(len, rows)) - len(row)) for row in rows] for name, rows in sides.items()
    }
    return {**padded, "item": _word_ids(words, ITEM), "between": _word_ids(words, BETWEEN)}


def _word_ids(words: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(words(text.split(), is_split_into_words=True, add_special_tokens=False)["input_ids"]) if text else []


def _own_texts() -> list[str]:
    return [sentence.replace("{history}", f"{ITEM} {BETWEEN}") for sentence in SENTENCES]


def load_t5(source: str) -> T5ForConditionalGeneration:
    """A pretrained T5 in float32.

    Raises:
        ConfigError: If there is none, or the model is of another kind.
    """
    folder, file = locate_backbone(source)
    with loading(f"the backbone {source!r}", file, expected="a T5: a folder, a GGUF file or a name of the hub"):
        found = AutoConfig.from_pretrained(folder, trust_remote_code=False, **file).model_type
        if found == "t5":
            return T5ForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, **file
            )
    raise ConfigError(
        f"the backbone {source!r} is a {found!r}, which p5 cannot use",
        where="recommender.backbone",
        expected="a T5",
        fix="choose a T5, or recommender.name=llm for causal language models",
    )


def sizes_of(config: T5Config) -> dict[str, int]:
    """What the settings call the sizes of a T5."""
    return {
        "hidden_size": config.d_model,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "head_size": config.d_kv,
        "feed_forward_size": config.d_ff,
    }


@torch.no_grad()
def adapt_vocabulary(model: T5ForConditionalGeneration, num_words: int, rows: int) -> dict[str, object]:
    """Give a T5 ``rows`` rows, of which those after its words are new and as large as the old; returns its config."""
    model.resize_token_embeddings(rows, mean_resizing=False)
    for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        table[num_words:].normal_(std=float(table[:num_words].std()))
    return dict(model.config.to_dict())
