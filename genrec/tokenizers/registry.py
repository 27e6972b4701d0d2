"""Item tokenizers by name; a family's libraries are imported when it is asked for."""

from typing import cast

from genrec.features.registry import lookup
from genrec.tokenizers.base import ItemTokenizer

TOKENIZERS = {
    "aligned": "genrec.tokenizers.aligned:AlignedTokenizer",
    "cf-regularised": "genrec.tokenizers.cf_regularised:CFRegularisedTokenizer",
    "cid": "genrec.tokenizers.cid:CollaborativeTokenizer",
    "domain-contrastive": "genrec.tokenizers.domain_contrastive:DomainContrastiveTokenizer",
    "fsq": "genrec.tokenizers.fsq:ScalarTokenizer",
    "gid": "genrec.tokenizers.gid:GIDTokenizer",
    "hybrid": "genrec.tokenizers.hybrid:HybridTokenizer",
    "independent": "genrec.tokenizers.independent:IndependentTokenizer",
    "louvain": "genrec.tokenizers.louvain:LouvainTokenizer",
    "matryoshka": "genrec.tokenizers.matryoshka:MatryoshkaTokenizer",
    "mpq": "genrec.tokenizers.mpq:ExpertTokenizer",
    "opq": "genrec.tokenizers.opq:OptimisedProductTokenizer",
    "pq": "genrec.tokenizers.pq:ProductTokenizer",
    "random": "genrec.tokenizers.random_digits:RandomTokenizer",
    "residual-fsq": "genrec.tokenizers.residual_fsq:ResidualScalarTokenizer",
    "rqkmeans": "genrec.tokenizers.rqkmeans:ResidualKMeansTokenizer",
    "rqkmeans-balanced": "genrec.tokenizers.rqkmeans_balanced:BalancedKMeansTokenizer",
    "rqvae": "genrec.tokenizers.rqvae:ResidualVAETokenizer",
    "semantic-path": "genrec.tokenizers.semantic_path:SemanticPathTokenizer",
    "sequential": "genrec.tokenizers.sequential:SequentialTokenizer",
    "set": "genrec.tokenizers.set_tokens:SetTokenizer",
    "title": "genrec.tokenizers.title:TitleTokenizer",
}


def tokenizer_class(name: str) -> type[ItemTokenizer]:
    """The class of an item tokenizer by name.

    Raises:
        ConfigError: If there is no such tokenizer; the nearest name is given.
    """
    return cast(type[ItemTokenizer], lookup(TOKENIZERS, name, kind="item tokenizer", where="tokenizer.name"))
