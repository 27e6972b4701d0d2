"""What recommenders with a vocabulary of words share: the subword tokenizer lives in the model's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from genrec.errors import ArtifactError, ConfigError
from genrec.models.base import BackboneSettings, GenerativeRecommender, GenrecConfig
from genrec.models.layers.text_tokenizer import open_words

WORDS_FOLDER = "words"


class TextModel(GenerativeRecommender):
    """A recommender that reads and writes words as well as codes."""

    words: PreTrainedTokenizerBase | None = None

    def new_for(self, config: GenrecConfig) -> GenerativeRecommender:
        """A model for another catalogue, with the same words."""
        model = cast(TextModel, super().new_for(config))
        model.words = self.words
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write the model and, in the folder ``words`` next to its weights, the subword tokenizer."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.words is not None:
            self.words.save_pretrained(str(Path(save_directory) / WORDS_FOLDER))

    def take_parts(self, folder: Path) -> None:
        """Take the words of a model folder.

        Raises:
            ArtifactError: If they are missing or damaged.
        """
        super().take_parts(folder)
        self.words = open_words(folder / WORDS_FOLDER)


def check_prompts(config: PreTrainedConfig, dimensions: Mapping[str, int]) -> None:
    """Refuse stored word ids that the model cannot read.

    Args:
        config: With the word ids of its prompts.
        dimensions: Prompt: 1 for a list of ids, 2 for a list per sentence.

    Raises:
        ArtifactError: If a prompt is missing, has another form, or an id is no word.
    """
    known = config.prompts or {}
    for name, expected in dimensions.items():
        rows = known.get(name, [[None]])
        ids = [word for row in rows for word in (row if isinstance(row, list) else [row])]
        nested = {isinstance(row, list) for row in rows} <= {expected == 2}
        if not nested or len({len(row) for row in rows if isinstance(row, list)}) > 1 or not _are_words(ids, config):
            raise ArtifactError(
                f"the prompt {name!r} cannot be read",
                where="config.json",
                expected=f"ids of the {config.num_words} words",
                fix="restore the folder, or train again",
            )


def _are_words(ids: list[Any], config: PreTrainedConfig) -> bool:
    return all(isinstance(word, int) and 0 <= word < config.num_words for word in ids)


def check_sizes(settings: BackboneSettings, sizes: dict[str, int], source: str) -> None:
    """Refuse sizes in a recipe that are not those of the pretrained backbone.

    Args:
        settings: A size that is left at its default is not looked at.
        sizes: Setting: what the backbone has.
        source: The backbone's name or path.

    Raises:
        ConfigError: On the first that differs.
    """
    for name, found in sizes.items():
        wanted = getattr(settings, name)
        if wanted not in (found, type(settings).model_fields[name].default):
            raise ConfigError(
                f"{name} {wanted} does not fit the backbone {source!r}, which has {found}",
                where=f"recommender.{name}",
                expected=str(found),
                fix=f"leave recommender.{name} out, or choose another backbone",
            )
