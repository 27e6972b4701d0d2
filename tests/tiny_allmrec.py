"""What A-LLMRec is built on, small: a language model, a SASRec, a model of the first stage."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy, pad
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from genrec.config import RecommenderConfig
from genrec.data.histories import Histories
from genrec.models import ItemTexts, RecommenderModel, build_recommender
from genrec.models.families.allmrec_prompt import SENTENCES
from genrec.models.layers.text_tokenizer import encode_texts, train_words

SIZES = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
WIDTH, NUM_TITLES = 12, 40


@cache
def home() -> Path:
    """A folder for all of it, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="genrec-tiny-llm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def titles_of(num_items: int) -> ItemTexts:
    """Titles of two to four words; the text says a little more."""
    titles = [f"{('red', 'blue', 'green')[item % 3]} thing number {item}" for item in range(num_items)]
    return ItemTexts(titles, [f"{title}, made by {item % 5}" for item, title in enumerate(titles)])


def features_of(num_items: int) -> np.ndarray:
    """Text vectors, float32 ``[N, 12]``."""
    return np.random.default_rng(5).standard_normal((num_items, WIDTH)).astype(np.float32)


@cache
def tiny_language(positions: int = 512, trained: bool = True) -> str:
    """A folder with a language model of two layers and its words.

    It has learned to write the title that the first vector it reads stands for, whatever follows: as much as a large
    one knows of soft tokens.
    """
    folder = home() / f"language-{positions}-{trained}"
    texts = titles_of(NUM_TITLES)
    words = train_words([*SENTENCES.values()] * 3 + list(texts.texts), 600)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    if trained:
        _teach(model, words, texts.titles)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@torch.enable_grad()
def _teach(model: LlamaForCausalLM, words: PreTrainedTokenizerBase, titles: Sequence[str]) -> None:
    wanted = pad(encode_texts(words, [f" {title}" for title in titles], 8).long(), (0, 1), value=-1)
    wanted.scatter_(1, (wanted != -1).sum(1, keepdim=True), words.eos_token_id)
    closing = torch.tensor(words(SENTENCES["closing"])["input_ids"]).expand(len(wanted), -1)
    centres = 0.3 * torch.randn(len(wanted), 48)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(110):
        between = torch.randint(len(words), (len(wanted), int(torch.randint(1, 20, (1,)))))
        first = centres + 0.1 * torch.randn_like(centres)
        vectors = model.get_input_embeddings()(torch.cat([between, closing, wanted.clamp_min(0)], dim=1))
        logits = model(inputs_embeds=torch.cat([first.unsqueeze(1), vectors], dim=1)).logits[
            :, -wanted.shape[1] - 1 : -1
        ]
        optimizer.zero_grad()
        cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1).backward()
        optimizer.step()


@cache
def tiny_sasrec(num_items: int) -> str:
    """A folder with a SASRec whose biases are not zero."""
    folder = home() / f"sasrec-{num_items}"
    torch.manual_seed(1)
    model = build_recommender(RecommenderConfig(name="sasrec", **SIZES), num_items=num_items)
    torch.nn.init.normal_(model.item_bias)
    model.save_pretrained(folder)
    return str(folder)


def build_aligner(num_items: int, **settings: object) -> RecommenderModel:
    """A new model of the first stage."""
    config = RecommenderConfig(
        name="allmrec", **{"collaborative": tiny_sasrec(num_items), "latent_size": 16, **settings}
    )
    torch.manual_seed(2)
    histories = Histories.from_lists([list(range(num_items - 3)), [0, num_items - 3]])
    return build_recommender(config, num_items=num_items, features=features_of(num_items), histories=histories)


@cache
def tiny_aligned(num_items: int) -> str:
    """A folder of the first stage, where all items but the last two have training interactions."""
    folder = home() / f"aligned-{num_items}"
    model = build_aligner(num_items)
    model.save_pretrained(folder)
    return str(folder)


def second_stage(num_items: int, trained: bool = True) -> dict[str, object]:
    """Settings of the second stage on top of these, with a language model that has learned something or not."""
    return {
        "stage": "prompt",
        "aligned": tiny_aligned(num_items),
        "backbone": tiny_language(trained=trained),
        "prompt_items": 4,
        "title_words": 8,
        "candidates": 0,
    }
