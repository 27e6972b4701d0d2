"""The catalogue's semantic IDs as a tree of integer arrays: built, changed, mapped from a file."""

from genrec.tokenizers.trie.arrays import Trie, build_trie, is_trie_of, refuse_prefixes

__all__ = ["Trie", "build_trie", "is_trie_of", "refuse_prefixes"]
