"""From a trained recommender to ranked lists: beam search over the trie, exact scoring, lists for sets of users."""

from genrec.decoding.beam import NonFiniteLogitsError, beam_search
from genrec.decoding.device_trie import DeviceTrie, Exclusion
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue, walk_trie
from genrec.decoding.generate import Block, Searcher, generate_blocks, generate_lists, recommend, trie_of
from genrec.decoding.output import Written, write_recommendations
from genrec.decoding.ranking import RankedItems, rank_items, top_items

__all__ = [
    "Block",
    "DeviceTrie",
    "Exclusion",
    "NonFiniteLogitsError",
    "RankedItems",
    "Searcher",
    "Written",
    "beam_search",
    "exhaustive_search",
    "generate_blocks",
    "generate_lists",
    "rank_items",
    "recommend",
    "score_catalogue",
    "top_items",
    "trie_of",
    "walk_trie",
    "write_recommendations",
]
