"""Decoding: from a trained recommender to ranked lists, by beam search over the trie or by exact scores."""

from genrec.config import SearchOptions
from genrec.decoding.device_trie import DeviceTrie, Exclusion
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue, walk_trie
from genrec.decoding.explain import Explanation, explain_items
from genrec.decoding.generate import UserBlock, generate_blocks, generate_lists, recommend
from genrec.decoding.nonfinite import NonFiniteLogitsError
from genrec.decoding.output import Names, Written, schema_of
from genrec.decoding.ranking import RankedItems, rank_items, top_items
from genrec.decoding.search import Samples, beam_search, sample_items
from genrec.decoding.searcher import Searcher, trie_of, use_index
from genrec.decoding.session import Sessions, list_by_sessions, session_size_of, write_sessions
from genrec.decoding.shards import Shards, commit_blocks, write_recommendations

__all__ = [
    "DeviceTrie",
    "Exclusion",
    "Explanation",
    "Names",
    "NonFiniteLogitsError",
    "RankedItems",
    "Samples",
    "SearchOptions",
    "Searcher",
    "Sessions",
    "Shards",
    "UserBlock",
    "Written",
    "beam_search",
    "commit_blocks",
    "exhaustive_search",
    "explain_items",
    "generate_blocks",
    "generate_lists",
    "list_by_sessions",
    "rank_items",
    "recommend",
    "sample_items",
    "schema_of",
    "score_catalogue",
    "session_size_of",
    "top_items",
    "trie_of",
    "use_index",
    "walk_trie",
    "write_recommendations",
    "write_sessions",
]
