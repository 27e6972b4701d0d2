"""Item tokenizers by name; a family's libraries are imported when it is asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from genrec.config import parse_settings
from genrec.errors import ConfigError
from genrec.features.registry import lookup

if TYPE_CHECKING:
    from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings

TOKENIZERS = {
    "aligned": "genrec.tokenizers.families.aligned:AlignedTokenizer",
    "cf-regularized": "genrec.tokenizers.families.cf_regularized:CFRegularizedTokenizer",
    "cid": "genrec.tokenizers.families.cid:CollaborativeTokenizer",
    "domain-contrastive": "genrec.tokenizers.families.domain_contrastive:DomainContrastiveTokenizer",
    "fsq": "genrec.tokenizers.families.fsq:ScalarTokenizer",
    "gid": "genrec.tokenizers.families.gid:GIDTokenizer",
    "hybrid": "genrec.tokenizers.families.hybrid:HybridTokenizer",
    "independent": "genrec.tokenizers.families.independent:IndependentTokenizer",
    "louvain": "genrec.tokenizers.families.louvain:LouvainTokenizer",
    "matryoshka": "genrec.tokenizers.families.matryoshka:MatryoshkaTokenizer",
    "mpq": "genrec.tokenizers.families.mpq:ExpertTokenizer",
    "opq": "genrec.tokenizers.families.opq:OptimizedProductTokenizer",
    "pq": "genrec.tokenizers.families.pq:ProductTokenizer",
    "random": "genrec.tokenizers.families.random_digits:RandomTokenizer",
    "residual-fsq": "genrec.tokenizers.families.residual_fsq:ResidualScalarTokenizer",
    "rqkmeans": "genrec.tokenizers.families.rqkmeans:ResidualKMeansTokenizer",
    "rqkmeans-balanced": "genrec.tokenizers.families.rqkmeans_balanced:BalancedKMeansTokenizer",
    "rqvae": "genrec.tokenizers.families.rqvae:ResidualVAETokenizer",
    "semantic-path": "genrec.tokenizers.families.semantic_path:SemanticPathTokenizer",
    "sequential": "genrec.tokenizers.families.sequential:SequentialTokenizer",
    "set": "genrec.tokenizers.families.set_tokens:SetTokenizer",
    "title": "genrec.tokenizers.families.title:TitleTokenizer",
}


def tokenizer_class(name: str) -> "type[ItemTokenizer]":
    """The class of an item tokenizer by name.

    Raises:
        ConfigError: If there is no such tokenizer; the nearest name is given.
    """
    return cast("type[ItemTokenizer]", lookup(TOKENIZERS, name, kind="item tokenizer", where="tokenizer.name"))


def tokenizer_settings(name: str, values: Mapping[str, Any], *, where: str) -> "TokenizerSettings":
    """The validated settings of a family.

    Args:
        name: Of the tokenizer.
        values: Settings as read from YAML.
        where: The section that holds them, for the message.

    Raises:
        ConfigError: If the name or a setting is not known, or a value cannot be used; of a setting that other families
            have, those are named.
    """
    family = tokenizer_class(name)
    for key in values:
        if key in family.Settings.model_fields:
            continue
        others = [other for other in TOKENIZERS if key in tokenizer_class(other).Settings.model_fields]
        if others:
            raise ConfigError(
                f"unknown key {key}: the tokenizer {name} has no such setting",
                where=where,
                expected=f"one of {', '.join(sorted(family.Settings.model_fields))}",
                fix=f"remove it, or set {where}.name to a tokenizer that has it: {', '.join(others)}",
            )
    return parse_settings(family.Settings, values, where=where)
