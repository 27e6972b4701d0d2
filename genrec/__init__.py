"""genrec trains, aligns and runs generative recommenders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.recommender import Recommender

__version__ = "0.1.0"
__all__ = ["Recommender", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Recommender":
        from genrec.recommender import Recommender

        return Recommender
    raise AttributeError(f"module 'genrec' has no attribute {name!r}")
