"""Item tokenizers by name; a family's libraries are imported when it is asked for."""

from typing import cast

from genrec.features.registry import lookup
from genrec.tokenizers.base import ItemTokenizer

TOKENIZERS = {
    "rqkmeans": "genrec.tokenizers.rqkmeans:ResidualKMeansTokenizer",
    "rqvae": "genrec.tokenizers.rqvae:ResidualVAETokenizer",
}


def tokenizer_class(name: str) -> type[ItemTokenizer]:
    """The class of an item tokenizer by name.

    Raises:
        ConfigError: If there is no such tokenizer; the nearest name is given.
    """
    return cast(type[ItemTokenizer], lookup(TOKENIZERS, name, kind="item tokenizer", where="tokenizer.name"))
