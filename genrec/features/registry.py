"""Names of families and where their classes live; nothing heavy is imported before a name is asked for."""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from genrec.config.old_names import current_name
from genrec.errors import ConfigError
from genrec.features.base import FeatureEncoder

ENCODERS = {
    "lexical": "genrec.features.lexical:LexicalEncoder",
    "sentence": "genrec.features.sentence:SentenceEncoder",
    "metadata": "genrec.features.metadata:MetadataEncoder",
    "lightgcn": "genrec.features.lightgcn:LightGCNEncoder",
    "ultragcn": "genrec.features.ultragcn:UltraGCNEncoder",
    "fastrp": "genrec.features.fastrp:FastRPEncoder",
    "sasrec": "genrec.features.sasrec:SASRecEncoder",
    "matrix": "genrec.features.matrix:MatrixEncoder",
    "concat": "genrec.features.concat:ConcatEncoder",
}


def lookup(registry: Mapping[str, str], name: str, *, kind: str, where: str) -> Any:
    """Import what a registry has under a name.

    Args:
        registry: Name to ``module:attribute``.
        name: The name asked for.
        kind: What the registry lists, for the message.
        where: The setting that holds the name, for the message.

    Raises:
        ConfigError: If there is no such name; the nearest one is given.
    """
    name = current_name(name, registry)
    if name not in registry:
        nearest = difflib.get_close_matches(name, registry, n=1, cutoff=0.4)
        raise ConfigError(
            f"there is no {kind} {name!r}",
            where=where,
            expected=f"one of {', '.join(sorted(registry))}",
            fix=f"did you mean {nearest[0]!r}?" if nearest else "",
        )
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)


def encoder_class(name: str) -> type[FeatureEncoder]:
    """The class of an encoder by name.

    Raises:
        ConfigError: If there is no such encoder.
    """
    return cast(type[FeatureEncoder], lookup(ENCODERS, name, kind="feature encoder", where="features.encoder"))
