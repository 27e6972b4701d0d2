"""The words of a text in any script: the one place that says what counts as a word.

Scripts that write no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) have no words that the
text alone shows. There every letter with its marks counts as a word, and runs of such words, which an encoder
counts anyway, stand for the longer ones.
"""

import re
import unicodedata
from itertools import groupby

# Letters of scripts without spaces between words, by block of Unicode.
_UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana and Katakana
    "\u0e00-\u0eff"  # Thai and Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff"  # Khmer
)
_LAST_MARK = 0x1FFFF


def _marks() -> str:
    """Combining marks as ranges of a character class: vowel signs are marks, and ``\\w`` leaves them out."""
    codes = [code for code in range(_LAST_MARK) if unicodedata.category(chr(code)).startswith("M")]
    runs = [[code for _, code in run] for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0])]
    return "".join(re.escape(chr(run[0])) + "-" + re.escape(chr(run[-1])) for run in runs)


_MARKS = _marks()
_SPACED_LETTERS = rf"[^\W{_UNSPACED}]+"
_WORD = re.compile(rf"(?=\w)[{_UNSPACED}][{_MARKS}]*|{_SPACED_LETTERS}(?:[{_MARKS}]+(?:{_SPACED_LETTERS})?)*")
_RUN = re.compile(rf"\w[\w{_MARKS}]*")
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_SYMBOL = re.compile(rf"[^\s{_MARKS}]")
_WIDE_FORMS = re.compile("[\uff01-\uffee]+")
# Latin, Greek, Cyrillic and Armenian are before it.
_FIRST_WITHOUT_ACCENTS = "\u0590"
# Soft hyphens and joiners change how letters are drawn, not which word they are.
_INVISIBLE = dict.fromkeys((0x00AD, 0x200C, 0x200D))


def plain_text(text: str) -> str:
    """A text in the composed form of Unicode (NFC) and with letters of usual width; nothing else changes.

    One title typed on two systems is one text afterwards.
    """
    return unicodedata.normalize("NFC", _WIDE_FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case and in their order, for counting which items share them.

    The text need not be in a normal form. Single letters count only where a text has no longer word, and symbols only
    where it has no word at all. Syllables of Korean and letters of scripts without spaces always count.
    """
    found = every_word(text)
    return [word for word in found if len(word) > 1 or can_be_short(word)] or found or _SYMBOL.findall(text)


def every_word(text: str) -> list[str]:
    """As :func:`words_of`, single letters included and symbols not."""
    return _WORD.findall(plain_text(text).translate(_INVISIBLE).lower())


def words_without_accents(text: str) -> list[str]:
    """What spaces and symbols separate, in lower case, compatible forms (NFKC) and without accents.

    Accents are marks of Latin, Greek and Cyrillic letters; marks of other scripts are vowels, tones, parts of letters.
    """
    kept, base = [], ""
    for letter in unicodedata.normalize("NFKD", text.translate(_INVISIBLE)):
        if not unicodedata.combining(letter):
            base = letter
        if base == letter or base >= _FIRST_WITHOUT_ACCENTS:
            kept.append(letter)
    return _RUN.findall(unicodedata.normalize("NFC", "".join(kept)).lower())


def is_unspaced(word: str) -> bool:
    """Whether a word is a letter of a script without spaces between words."""
    return _UNSPACED_LETTER.match(word) is not None


def can_be_short(word: str) -> bool:
    """Whether a single letter can be a word: a syllable of Korean, or a letter of a script without spaces."""
    return "\uac00" <= word[0] <= "\ud7a3" or is_unspaced(word)
