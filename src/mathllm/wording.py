"""What a message shows of a value that it did not choose: whole if short, else a piece of it.

A value out of a file may be of any size, and one of a few bytes may stand for billions (aliases
in YAML): nothing here goes through all of one.
"""

import reprlib

SHOWN = 80  # characters of a value
NAMED = 60  # characters of a name
MESSAGE = 2000  # characters of a whole message
_BITS = 256  # of an integer that is written out; Python itself refuses beyond some thousand digits


class _Piece(reprlib.Repr):
    """repr() of the first parts of what contains others, down to a few levels."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.fillvalue = 3, "…"
        self.maxstring = self.maxother = SHOWN

    def repr_int(self, x: int, level: int) -> str:
        del level
        return repr(x) if x.bit_length() <= _BITS else f"an integer of {x.bit_length():,} bits"


_PIECE = _Piece()


def shown(value: object, limit: int = SHOWN) -> str:
    """repr() of a value, at most `limit` characters of it, without control characters."""
    return _cut(_PIECE.repr(value), limit)


def brief(text: object, limit: int = NAMED) -> str:
    """A name, or what another library said, in one line of at most `limit` characters."""
    words = " ".join(str(text)[: 4 * limit].split())
    return _cut("".join(c if c.isprintable() else "�" for c in words), limit)


def whole(message: object) -> str:
    """A message as it is shown to a person: its middle is left out where it is far too long,
    since its beginning names the place and its end the mend."""
    text = str(message)
    if len(text) > MESSAGE:
        text = f"{text[: 3 * MESSAGE // 4]} … {text[-MESSAGE // 4 :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def writable(text: str) -> str:
    """The text with a sign in place of every surrogate on its own, which nothing can encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
