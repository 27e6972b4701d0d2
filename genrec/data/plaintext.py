"""Bytes of text files: what is packed, or written in another encoding than UTF-8, is refused with what it is."""

import codecs

from genrec.errors import DataError

BLOCK = 16 << 20
# Long marks first: those of UTF-32 begin as those of UTF-16 do.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PACKED = (
    (b"\x1f\x8b", "packed with gzip", "name it {name}.gz"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"PAR1", "Parquet", "name it .parquet"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it: zstd -d"),
    (b"BZh", "packed with bzip2", "unpack it: bunzip2"),
    (b"\xfd7zXZ", "packed with xz", "unpack it: unxz"),
    (b"\xd0\xcf\x11\xe0", "an Excel or other Office file", "save the sheet as CSV"),
)
# Encodings in which bytes beyond ASCII come in runs; any that reads the whole text may be the one.
MULTIBYTE = ("shift_jis", "gbk", "big5", "euc_kr", "cp1251")


def utf8_bytes(data: bytes, where: str, *, first_line: int = 1) -> bytes:
    """The bytes of a text without a byte order mark, when they are UTF-8.

    Args:
        data: Whole lines.
        where: The file.
        first_line: Number of the first line.

    Raises:
        DataError: If they are packed, hold NUL bytes, or are not UTF-8; with the line and the likely encoding.
    """
    if first_line == 1:
        _refuse_packed(data, where)
        data = data.removeprefix(codecs.BOM_UTF8)
    _refuse_nul(data, where, first_line)
    if not data.isascii():
        _check(data, where, first_line)
    return data


def latin_text(data: bytes, where: str) -> str:
    """MovieLens files as text: UTF-8 where they are, else Latin-1.

    Raises:
        DataError: If they are packed or hold NUL bytes.
    """
    _refuse_packed(data, where)
    _refuse_nul(data, where, 1)
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _refuse_nul(data: bytes, where: str, first_line: int) -> None:
    if b"\x00" not in data:
        return
    line = data.count(b"\n", 0, data.index(b"\x00")) + first_line
    # ASCII in two bytes each: every other byte; zeros at the end of a damaged file are in all places.
    first, second = (data[start:2000:2].count(b"\x00") for start in (0, 1))
    wide = abs(first - second) * 3 > len(data[:2000])
    encoding = "utf-16be" if first > second else "utf-16le"
    raise DataError(
        "the file holds NUL bytes" + (": it is UTF-16" if wide else ""),
        where=f"{where}, line {line}",
        expected="text in UTF-8",
        fix=_converting(_name(where), encoding) if wide else "write the file again: it is damaged or not text",
    )


def _refuse_packed(data: bytes, where: str) -> None:
    name = _name(where)
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise DataError(
                f"the file is {encoding.upper()}",
                where=where,
                expected="text in UTF-8",
                fix=_converting(name, encoding),
            )
    for mark, kind, fix in PACKED:
        if data.startswith(mark):
            raise DataError(f"the file is {kind}", where=where, expected="plain text", fix=fix.format(name=name))


def _check(data: bytes, where: str, first_line: int) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), BLOCK):
            decoder.decode(data[start : start + BLOCK], final=start + BLOCK >= len(data))
        return
    except UnicodeDecodeError:
        pass
    try:
        # Once more as a whole, for the position.
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        at, start = error.start, data.rfind(b"\n", 0, error.start) + 1
        piece = data[max(at - 10, start) : error.end + 10].decode("latin-1").split("\n")[0]
        line = data.count(b"\n", 0, at) + first_line
        raise DataError(
            f"the file is not UTF-8: byte 0x{data[at]:02x} in {piece!r}",
            where=f"{where}, line {line}",
            expected="text in UTF-8",
            fix=_cure(data[max(at - 1000, 0) : at + 100_000], _name(where)),
        ) from error


def _cure(sample: bytes, name: str) -> str:
    """How to convert a text: Western letters beyond ASCII come one by one, other scripts in runs."""
    found = [encoding for encoding in MULTIBYTE if _reads(sample, encoding)]
    if "shift_jis" in found and _is_japanese(sample):
        return _converting(name, "shift_jis")
    high = [byte >= 0x80 for byte in sample]
    near = [before or after for before, after in zip([False, *high[:-1]], [*high[1:], False], strict=True)]
    alone = sum(here and not other for here, other in zip(high, near, strict=True))
    if alone * 2 >= sum(high):
        return _converting(name, "cp1252" if any(0x80 <= byte < 0xA0 for byte in sample) else "latin1")
    if found == ["cp1251"]:
        return _converting(name, "cp1251")
    could = f" (it could be {' or '.join(found)})" if found else ""
    return f"find its encoding{could}, then {_converting(name, 'ENCODING')}"


def _reads(sample: bytes, encoding: str) -> bool:
    # A sample may begin and end within a letter.
    return any(_decodes(sample[start : len(sample) - end], encoding) for start in (0, 1) for end in (0, 1))


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_japanese(sample: bytes) -> bool:
    letters = [letter for letter in sample.decode("shift_jis", errors="ignore") if not letter.isascii()]
    return sum("\u3040" <= letter <= "\u30ff" for letter in letters) * 4 >= len(letters)


def _converting(name: str, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t utf-8 {name} > utf8-{name}"


def _name(where: str) -> str:
    return where.rsplit("/", 1)[-1]
