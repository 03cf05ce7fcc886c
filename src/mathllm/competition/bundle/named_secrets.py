"""Credentials that nothing but their name gives away: what a name such as api_key is set to.

In source, notebooks, YAML, JSON and .env files. Prose, variables, empty values and the words
that stand for a tokenizer's special tokens are none.
"""

import re
from collections.abc import Iterator

_WORDS = (
    rb"password|passwd|passphrase|pwd|secret[_-]?(?:access[_-]?)?key|secret"
    rb"|private[_-]?key|access[_-]?key|api[_-]?key|token"
)
# With what these begin. Found one by one: a tokenizer has megabytes.
_STEMS = (b"passw", b"passphrase", b"pwd", b"secret", b"private", b"access", b"api", b"token")
# The name's end, `: str =` or one of : = , and the value: quoted, or all that is left of a line.
_NAMED = re.compile(
    rb"(?i)(?P<word>" + _WORDS + rb")"
    rb"""\\?["']?\]?(?P<is>(?:\s{0,3}:\s{0,3}[a-z][\w\[\]|., ]{0,30})?\s{0,3}[:=,]\s{0,3})"""
    rb"""(?:[bfru]{0,2}\\?(?P<quote>["'])(?P<quoted>[^"'\s\\<>{}$]{6,200})\\?(?P=quote)"""
    rb"""|(?P<plain>[0-9A-Za-z_+/=.~!@%^&*-]{8,200})"""
    rb"""(?=[ \t\r]*(?:#|\n|\Z|\\n["']|["'],?\s*(?:\n|\Z))))"""
)
_BEFORE = re.compile(rb"[0-9A-Za-z_-]*\Z")
# With the value as a word of its own: an option of a command, a header, a part of an address.
_IN_PLACE = (
    re.compile(
        rb"""(?i)--[a-z-]{0,30}(?:password|secret|api-?key|token)[ =]([^\s"'<>{}$]{8,200})"""
    ),
    re.compile(rb"(?i)\bbearer\s{1,3}([0-9a-z._~+/-]{20,400})"),
    re.compile(rb"""\b[a-z]{2,10}://[^/\s:@"'<>{}$]{1,60}:([^/\s:@"'<>{}$]{6,100})@"""),
)
_SPECIAL = re.compile(
    rb"(?i)(?:\A|[_-])(?:bos|eos|pad|unk|sep|cls|mask|special|image|video|audio|vision|stop|end"
    rb"|start|begin|additional|added|prefix|suffix|middle|next|last|first|prev|new)[_-]\Z"
)
_OF_ACCESS = re.compile(rb"(?i)(?:\A|[^0-9a-z]|access|auth|refresh|bearer|session|api|id)\Z")
_CAMEL = re.compile(rb"(?:[A-Z]?[a-z]{2,}|[A-Z]{2,})(?:[A-Z][a-z]+)*")
_PATH = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_words = re.compile(rb"\w+").findall
_VARIABLE = re.compile(rb"[0-9]+|[A-Za-z_]+[0-9]{0,2}(?:_[A-Za-z]+[0-9]{0,2})*")
# Characters from which on a value may be a credential. Special tokens are long words too.
_LEAST, _LEAST_OF_TOKEN = 6, 16


def find(data: bytes) -> int | None:
    """Where the first one begins; None without one."""
    named = (_NAMED.match(data, place) for place in _stems(data))
    places = [m.start() for m in named if m and _is_credential(m)]
    for pattern in _IN_PLACE:
        places += [m.start() for m in pattern.finditer(data) if is_random(m[1])]
    return min(places, default=None)


def _stems(data: bytes) -> Iterator[int]:
    """Where a name may end that says what it holds."""
    lower = data.lower()
    for stem in _STEMS:
        place = lower.find(stem)
        while place >= 0:
            yield place
            place = lower.find(stem, place + 1)


def _is_credential(match: re.Match[bytes]) -> bool:
    word, is_, quoted, value = match["word"], match["is"], match["quoted"], match["plain"]
    before = _BEFORE.search(match.string, max(0, match.start() - 40), match.start())[0]
    is_token = word.lower() == b"token"
    if is_token and (_SPECIAL.search(before) or not _OF_ACCESS.search(before)):
        return False
    if quoted is not None:
        return is_random(quoted, _LEAST_OF_TOKEN if is_token else _LEAST)
    if is_.strip() == b",":
        return False
    # In YAML, and in capitals as of an environment, there are no variables.
    plain = is_.strip() == b":" or (is_ == b"=" and (before + word).isupper())
    if not plain and (_PATH.fullmatch(value) or all(map(_VARIABLE.fullmatch, _words(value)))):
        return False
    return is_random(value, _LEAST_OF_TOKEN if is_token else _LEAST)


def is_random(value: bytes, least: int = _LEAST) -> bool:
    """Whether a value has letters and digits, or is long and of both cases without words."""
    if len(value) < least:
        return False
    if re.search(rb"[A-Za-z]", value) and re.search(rb"[0-9]", value):
        return True
    both = value.isalpha() and not (value.islower() or value.isupper())
    return both and len(value) >= 16 and not _CAMEL.fullmatch(value)
