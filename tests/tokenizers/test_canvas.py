"""Letters of every script in plots: from fonts that have them, as boxes without a flood of warnings where none has."""

import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from genrec.tokenizers.quality import canvas
from genrec.tokenizers.quality.canvas import dress, new_figure, plain, write_figure

# Letters of a private area, which no font on any machine has.
RED, BLUE, LAMP = "\ue7a1", "\ue7a2", "\ue7a3"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes matplotlib find a font whose only letters are the given ones, until the test ends."""
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    canvas._letters_of.cache_clear()

    def make(name: str, letters: str) -> None:
        builder = FontBuilder(1000, isTTF=True)
        glyphs = [".notdef", *(f"g{ord(letter):x}" for letter in letters)]
        builder.setupGlyphOrder(glyphs)
        builder.setupCharacterMap({ord(letter): f"g{ord(letter):x}" for letter in letters})
        pen = TTGlyphPen(None)
        for place, point in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
            (pen.lineTo if place else pen.moveTo)(point)
        pen.closePath()
        box = pen.glyph()
        builder.setupGlyf(dict.fromkeys(glyphs, box))
        builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": name, "styleName": "Regular"})
        builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
        builder.setupPost()
        builder.save(tmp_path / f"{name}.ttf")
        font_manager.fontManager.addfont(str(tmp_path / f"{name}.ttf"))

    return make


def drawn(path, title: str, tick: str = "first") -> list[list[str]]:
    """Draw a figure with these texts; the fonts of all its texts."""
    figure = new_figure(3, 2)
    axes = figure.add_subplot()
    dress(axes, plain(title), "how to read it")
    axes.set_yticks([0, 1], [tick, "second"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figure(figure, path)
    assert path.stat().st_size > 1000
    return [text.get_fontfamily() for text in (axes.title, *axes.get_yticklabels())]


@pytest.mark.parametrize("title", [f"{RED}{BLUE} pen", f"bold \x1b[31m {RED}", f"{LAMP}\u202e\u0301"])
def test_letters_that_no_font_has_are_counted_once(title, tmp_path, caplog):
    drawn(tmp_path / "p.png", title)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("p.png: no installed font has ")
    assert "\x1b" not in caplog.messages[0]


def test_the_count_is_of_different_letters_also_in_ticks(tmp_path, caplog):
    drawn(tmp_path / "p.png", RED + RED + BLUE, LAMP)
    expected = r"p.png: no installed font has 3 of its letters, such as '\ue7a1\ue7a2\ue7a3': they are drawn as boxes"
    assert caplog.messages[0].startswith(expected)


def test_fonts_that_have_the_letters_are_used(install, tmp_path, caplog):
    install("Reds", RED + BLUE)
    install("Lamps", LAMP)
    install("Others", "\ue7b1\ue7b2")
    fonts = drawn(tmp_path / "p.png", f"a {RED}{BLUE}", LAMP)
    assert not caplog.messages
    assert fonts == [["sans-serif", "Reds", "Lamps"]] * 3, "the font with most of the letters first"


def test_other_fonts_do_not_change_what_needs_none(install, tmp_path):
    first = drawn(tmp_path / "a.png", "Crème Größe Ωмега 3 · × $5")
    install("Reds", RED)
    assert drawn(tmp_path / "b.png", "Crème Größe Ωмега 3 · × $5") == first == [["sans-serif"]] * 3
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
