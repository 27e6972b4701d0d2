"""Words together with codes: a subword tokenizer, made from texts or loaded, and sequences that are joined from pieces.

The semantic IDs' tokens are after the words in one vocabulary: word ids are those of the tokenizer, and the code k
of level l is the token ``semantic_id_tokens(level_sizes)[CodeSpace(level_sizes).offsets[l] + k]``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from genrec.artifacts import read_json
from genrec.errors import ArtifactError, ConfigError, GenrecError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PADDING_WORD, END_WORD = "<pad>", "</s>"
# What is after the end of a text in a table of word ids.
NO_WORD = -1
# What transformers reads about a tokenizer; there it may name files elsewhere, and code to run.
WORD_SETTINGS = ("tokenizer_config.json", "config.json")


class Piece(NamedTuple):
    """A part of every row of a batch.

    Attributes:
        tokens: int64 ``[B, S]``, or ``[S]`` where it is the same in all rows.
        mask: bool ``[B, S]``: which of them are there; all if None.
        learned: Whether the loss asks for them.
    """

    tokens: Tensor
    mask: Tensor | None = None
    learned: bool = False


class Joined(NamedTuple):
    """Right-padded rows: ``tokens`` int64, ``mask`` and ``learned`` bool, ``[B, S]`` each."""

    tokens: Tensor
    mask: Tensor
    learned: Tensor


def join_pieces(pieces: Sequence[Piece], batch: int) -> Joined:
    """Put pieces one after another, without gaps: what is not real moves after the end of its row."""
    tokens = torch.cat([piece.tokens.expand(batch, -1) for piece in pieces], dim=1)
    mask = torch.cat([_flags(piece, batch) for piece in pieces], dim=1)
    learned = torch.cat([torch.full_like(_flags(piece, batch), piece.learned) for piece in pieces], dim=1)
    order = (~mask).long().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    mask = mask.gather(1, order)
    return Joined(tokens.gather(1, order).masked_fill(~mask, 0), mask, learned.gather(1, order) & mask)


def _flags(piece: Piece, batch: int) -> Tensor:
    if piece.mask is None:
        return torch.ones(batch, piece.tokens.shape[-1], dtype=torch.bool, device=piece.tokens.device)
    return piece.mask


def train_words(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A subword tokenizer (byte-level BPE, Sennrich et al. 2016) made from texts; it can write every text.

    Args:
        texts: What it learns from.
        vocabulary_size: Most entries; 258 of them are padding, the end and the single bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        show_progress=False,
        special_tokens=[PADDING_WORD, END_WORD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PADDING_WORD, eos_token=END_WORD, add_prefix_space=True
    )


def load_words(source: str | Path) -> PreTrainedTokenizerBase:
    """The subword tokenizer of a pretrained language model, by folder, GGUF file or name.

    Raises:
        ConfigError: If there is none.
    """
    folder, file = locate_backbone(source)
    place = "a folder, a GGUF file or a name of the Hugging Face hub, with its tokenizer"
    with loading(f"the words of {str(source)!r}", file, expected=place):
        words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **file)
    return words


@contextmanager
def loading(what: str, file: Mapping[str, Any], expected: str) -> Iterator[None]:
    """Say of something pretrained that cannot be loaded why, and what to do.

    Args:
        what: What is loaded, for the message.
        file: The keyword arguments of :func:`locate_backbone`.
        expected: What would have been accepted.

    Raises:
        ConfigError: In place of what the libraries raise for files that are missing, damaged or do not fit together.
    """
    try:
        yield
    except (GenrecError, MemoryError):
        raise
    except Exception as error:  # for damaged files the libraries raise plain exceptions of their own
        reason = first_line(error)
        if isinstance(error, RuntimeError):
            if "mismatched" not in reason:
                raise
            reason = "its weights have other sizes than its config.json says"
        raise ConfigError(
            f"{what} cannot be loaded: {reason}",
            where="recommender.backbone",
            expected=expected,
            fix="check the name or the path, or download it again"
            + (", or pip install 'genrec[gguf]'" if "gguf_file" in file else ""),
        ) from error


def open_words(folder: Path) -> PreTrainedTokenizerBase:
    """The subword tokenizer inside a model folder; nothing outside of the folder is read, and no code of it is run.

    Raises:
        ArtifactError: If it is missing or damaged, or asks for files elsewhere or for code of its own.
    """
    try:
        _check_words(folder)
        words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except GenrecError:
        raise
    except Exception as error:  # the tokenizers library raises plain exceptions for damaged files
        raise _unusable_words(folder, first_line(error)) from error
    return words


def _check_words(folder: Path) -> None:
    for name in WORD_SETTINGS:
        path = folder / name
        values = read_json(path) if path.is_file() else {}
        asked = [key for key, value in values.items() if key == "auto_map" or (key.endswith("_file") and value)]
        if asked:
            raise _unusable_words(folder, f"{name} has {asked[0]!r}")


def _unusable_words(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"the words of the model cannot be loaded: {why}",
        where=str(folder),
        expected="the files of a subword tokenizer",
        fix="restore the folder, or train again",
    )


def locate_backbone(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Folder (or name) of a model and the keyword arguments that ``transformers`` loads it with: never from a pickle.

    Raises:
        ConfigError: If it is a recommender of ours.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    config = path / "config.json"
    if config.is_file() and read_json(config).get("model_type") == "genrec":
        raise ConfigError(
            f"the backbone {str(source)!r} is a genrec recommender already, whose vocabulary has been extended",
            where="recommender.backbone",
            expected="a language model as it was published",
            fix="give the language model that this one was made from",
        )
    return str(source), {}


def semantic_id_tokens(level_sizes: Sequence[int]) -> list[str]:
    """A token for every code of every level, level after level: ``<code_0_17>`` is code 17 of level 0."""
    return [f"<code_{level}_{code}>" for level, size in enumerate(level_sizes) for code in range(size)]


def add_semantic_ids(words: PreTrainedTokenizerBase, level_sizes: Sequence[int]) -> int:
    """Put the semantic IDs' tokens after the words, and say how many words are before them.

    Raises:
        ConfigError: If the vocabulary has such tokens already.
    """
    known, added = len(words), semantic_id_tokens(level_sizes)
    vocabulary = words.get_vocab()
    taken = [token for token in vocabulary if token.startswith("<code_")]
    if taken:
        raise ConfigError(
            f"the vocabulary has semantic IDs already, such as {taken[0]}",
            where="recommender.backbone",
            expected="a language model that has not been extended, so that old and new semantic IDs cannot be mixed up",
            fix="give the language model as it was published; to go on training use the model folder itself",
        )
    words.add_tokens(added)
    return known


def encode_texts(words: PreTrainedTokenizerBase, texts: Sequence[str], length: int, *, ended: bool = True) -> Tensor:
    """Word ids of texts and the end, int32 ``[N, S]`` with S at most ``length``; -1 after it, and for empty texts.

    The end is left out if not ``ended``, or if the words have none.
    """
    end = [] if words.eos_token_id is None or not ended else [words.eos_token_id]
    rows = [(ids + end)[:length] if ids else [] for ids in words(list(texts), add_special_tokens=False)["input_ids"]]
    table = torch.full((len(rows), max(1, max(map(len, rows), default=1))), NO_WORD, dtype=torch.int32)
    for row, ids in enumerate(rows):
        table[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return table


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
