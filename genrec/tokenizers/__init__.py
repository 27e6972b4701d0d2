"""Items to semantic IDs."""

from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.fit import build_tokenizer, fit_tokenizer
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.registry import TOKENIZERS, tokenizer_class
from genrec.tokenizers.trie import Trie, build_trie

__all__ = [
    "TOKENIZERS",
    "ItemIndex",
    "ItemTokenizer",
    "TokenizerSettings",
    "Trie",
    "build_tokenizer",
    "build_trie",
    "fit_tokenizer",
    "tokenizer_class",
]
