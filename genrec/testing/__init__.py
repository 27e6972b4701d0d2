"""The contracts of genrec as functions, for the tests of families that live outside of this package.

A recommender or item tokenizer is checked by its registered name with settings that make it small::

    from genrec.testing import check_recommender, check_tokenizer

    def test_my_recommender(tmp_path):
        check_recommender("mine", {"hidden_size": 16, "num_heads": 2}, tmp_path)

    def test_my_tokenizer(tmp_path):
        check_tokenizer("mine", {"num_levels": 2, "codebook_size": 8}, tmp_path)

Both raise :class:`AssertionError` with the rule that is broken. :class:`RecommenderContract` and
:class:`TokenizerContract` have one method per rule, for a report per rule. genrec's own families are tested by them.
Nothing here needs pytest.
"""

from genrec.testing.recommenders import RecommenderContract, build_tiny, check_recommender, log_probability
from genrec.testing.tokenizers import TokenizerContract, check_tokenizer
from genrec.testing.world import corrupt_held_out, tiny_dataset, tiny_features, tiny_interactions, tiny_items

__all__ = [
    "RecommenderContract",
    "TokenizerContract",
    "build_tiny",
    "check_recommender",
    "check_tokenizer",
    "corrupt_held_out",
    "log_probability",
    "tiny_dataset",
    "tiny_features",
    "tiny_interactions",
    "tiny_items",
]
