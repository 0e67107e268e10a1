"""The door for text that others wrote: scripts, templates, libraries, file names, the environment.

Such text is kept without the secrets that this process knows. It is shown on one line on which no terminal acts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 2000
"""The number of characters that are shown of one text."""

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_LINE_BREAK = r"(?:[ \t│|]*(?:\r?\n|\\r|\\n)[ \t│|]*)?"  # also in a frame, and as a repr writes it
_SHORTEST_SECRET = 4  # a shorter value stands in too many other words
_SHORTEST_LINE = 8  # of a secret with several lines, and of a value whose variable does not say that it is secret
_CUT = 500  # a text of this length may have been cut within a secret
_SECRET_NAME = re.compile(
    r"PASS|PW$|PWD$|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|PRIVATE|COOKIE|DSN$|SIGNATURE|SALT$|PIN$", re.IGNORECASE
)
_PLAIN_VALUE = re.compile(r"[\d.,:+-]*|[A-Za-z_. -]*|[./~].*|[A-Za-z]+:///.*", re.DOTALL)  # numbers, words, paths


# what is shown


def one_line(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of the text, with escapes for line breaks, control and bidi characters."""
    if len(text) > longest:
        text = f"{text[:longest]} … ({len(text) - longest:,} more characters)"
    return text if text.isprintable() else "".join(map(_harmless, text))


def shortened(text: str, longest: int) -> str:
    """As `one_line`; the middle of a longer text is left out, since names often differ at their ends."""
    text = one_line(masked(text))
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - half]}…{text[-half:]}"


def log_line(text: str) -> str:
    """A line of a log as a terminal would show it: without colours, and without what a progress bar has overwritten."""
    whole = _COLOURS.sub("", text).rstrip("\r")
    return whole[whole.rfind("\r") + 1 :].expandtabs(4)


def _harmless(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()


# secrets


class _Secrets:
    """The secrets that this process knows: each text that is not shown, and what is shown in its place."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}
        self.pattern: re.Pattern[str] | None = None

    def add(self, text: str, shown: str) -> None:
        if text not in self.shown:
            self.shown[text] = shown
            longest_first = sorted(self.shown, key=len, reverse=True)
            self.pattern = re.compile("|".join(_LINE_BREAK.join(map(re.escape, each)) for each in longest_first))

    def masked(self, text: str) -> str:
        if self.pattern is None:
            return text
        text = self.pattern.sub(self._shown, text)
        bare = text.rstrip(" .…")
        if len(bare) < len(text) or len(text) >= _CUT:
            for secret, shown in self.shown.items():
                for length in range(min(len(secret) - 1, len(bare)), _SHORTEST_SECRET - 1, -1):
                    if bare.endswith(secret[:length]):
                        return bare[:-length] + shown + text[len(bare) :]
        return text

    def _shown(self, found: re.Match[str]) -> str:
        whole = re.sub(_LINE_BREAK, "", found[0]) if found[0] not in self.shown else found[0]
        return self.shown.get(whole, "***")


_secrets = _Secrets()


def hide(secret: str, shown: str) -> None:
    """From now on, `masked` replaces `secret` by `shown`, also as other texts quote it. Very short ones stay."""
    for form in _forms(secret) if len(secret.strip()) >= _SHORTEST_SECRET else ():
        _secrets.add(form, shown)


def hide_variable(name: str, value: str) -> None:
    """Hide the value of an environment variable, unless both its name and its value look harmless."""
    if _SECRET_NAME.search(name) or (len(value) >= _SHORTEST_LINE and not _PLAIN_VALUE.fullmatch(value)):
        hide(value, f"{{${name}}}")


def masked(value: T) -> T:
    """The value without secrets: a text, or a struct, dict or list with texts in it."""
    return value if _secrets.pattern is None else _masked(value)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return _secrets.masked(value)
    if hasattr(value, "__struct_fields__"):
        import msgspec

        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = {name: new for name, old in fields.items() if (new := _masked(old)) != old}
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        return {_masked(key): _masked(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        text = "\n".join(value)  # the lines of a log, in which a secret may be split
        without = _secrets.masked(text)
        return value if without == text else without.split("\n")
    return [_masked(each) for each in value] if isinstance(value, list) else value


def _forms(secret: str) -> Iterator[str]:
    """The secret, and how Python, JSON, a shell and an address write it; and its lines, if it has several."""
    import json  # these are not needed in a run without secrets
    import shlex
    from urllib.parse import quote, quote_plus

    yield secret
    for quoted in (repr(secret), ascii(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        yield quoted[1:-1]
    written = json.dumps(secret)[1:-1]
    yield json.dumps(written)[1:-1]  # JSON in a JSON text
    yield repr(secret)[1:-1].replace("'", "\\'")  # it has both kinds of quotes
    yield repr(secret.encode(errors="surrogateescape"))[2:-1]
    yield shlex.quote(secret)
    for each in (quote, quote_plus):
        yield each(secret.encode(errors="surrogateescape"), safe="")
    lines = [line.strip() for line in secret.splitlines()]
    yield from (line for line in lines if len(lines) > 1 and len(line) >= _SHORTEST_LINE)
