"""The variations of a sweep: the product of the values of `--set KEY=A,B`, and of the seeds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedsag_cli.errors import UsageError

MOST = 10_000
"""The largest number of runs of one sweep."""

_SEED = re.compile(r"(?P<first>\d{1,19})(?:\.\.(?P<last>\d{1,19}))?")
_LARGEST_SEED = (1 << 63) - 1
_OPENING, _CLOSING = "[{(", "]})"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=,-]+")  # in the name of a folder
_LONGEST_VALUE, _LONGEST_NAME = 24, 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One `--set`: a key with its values, as `fedsag simulator --set` takes them. No value: the key is removed."""

    key: str
    values: Sequence[str]

    @property
    def varies(self) -> bool:
        return len(self.values) > 1

    @property
    def short(self) -> str:
        """The last part of the key's path."""
        return re.split(r"[.:]", self.key.replace('"', ""))[-1] or self.key

    def word(self, value: str) -> str:
        return f"{self.key}={value}"

    @property
    def words(self) -> list[str]:
        return [self.word(value) for value in self.values] or [self.key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """One run of a sweep. `name`: of its folder. `words`: for `--set`. `chosen`: the values of the keys that vary."""

    name: str
    words: Sequence[str]
    chosen: Sequence[str]
    seed: int


def read_setting(word: str) -> Setting:
    """`KEY=A,B`, `FILE:KEY=A,B` or `KEY-`. Raises UsageError.

    Commas separate values, but not within brackets, braces or double quotes. Quotes around a whole value are taken off;
    two quotes with nothing between them stand for an empty text.
    """
    key, equals, text = word.partition("=")
    if not equals and key.endswith("-") and key != "-":
        return Setting(key=key, values=())
    if not equals or not key:
        raise UsageError(f"--set {word}: KEY=VALUE is expected", hint="several values: --set KEY=A,B; remove it: KEY-")
    values = [_without_quotes(value) for value in _split(text, word)]
    if "" in values:
        what = "the value is empty" if len(values) == 1 else f"value {values.index('') + 1} of {len(values)} is empty"
        raise UsageError(f"--set {word}: {what}", hint='an empty text is written as ""')
    for at, value in enumerate(values):
        if value in values[:at]:
            raise UsageError(f"--set {word}: {value} is given twice: two runs would be the same")
    return Setting(key=key, values=values)


def read_seeds(text: str) -> list[int]:
    """`5`, `1,2,3`, `1..5`, or several of these with commas between them. Raises UsageError."""
    seeds: list[int] = []
    for part in text.split(","):
        found = _SEED.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"--seeds {text}: {part!r} is not a seed", hint="examples: --seeds 1..5, or --seeds 1,2,7")
        first, last = int(found["first"]), int(found["last"] or found["first"])
        if last < first:
            raise UsageError(f"--seeds {text}: {part.strip()} ends before it begins")
        if last > _LARGEST_SEED:
            raise UsageError(f"--seeds {text}: a seed is a number from 0 to 2**63 - 1")
        _check_count(len(seeds) + last - first + 1)
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text}: a seed is given twice: two runs would be the same")
    return seeds


def product(settings: Sequence[Setting], seeds: Sequence[int]) -> list[Variation]:
    """Every combination of the values, the last setting fastest, each with every seed. Raises UsageError."""
    keys = [setting.key for setting in settings]
    if double := next((key for at, key in enumerate(keys) if key in keys[:at]), None):
        raise UsageError(f"--set {double} is given twice", hint=f"give all its values in one: --set {double}=A,B")
    _check_count(math.prod(len(setting.words) for setting in settings) * len(seeds))
    names = _short_names(settings)
    each = list(itertools.product(itertools.product(*(setting.words for setting in settings)), seeds))
    digits = max(3, len(str(len(each))))
    found = []
    for number, (words, seed) in enumerate(each, start=1):
        varied = [
            (name, word.removeprefix(f"{setting.key}="))
            for name, setting, word in zip(names, settings, words, strict=True)
            if setting.varies
        ]
        shown = [f"{name}={value}" for name, value in varied] + ([f"seed={seed}"] if len(seeds) > 1 else [])
        name = _name(f"{number:0{digits}d}", shown)
        found.append(Variation(name=name, words=words, chosen=[value for _, value in varied], seed=seed))
    return found


def _short_names(settings: Sequence[Setting]) -> list[str]:
    """The last parts of the keys; the whole key where two have the same."""
    short = [setting.short for setting in settings]
    return [name if short.count(name) == 1 else setting.key for name, setting in zip(short, settings, strict=True)]


def columns(settings: Sequence[Setting]) -> list[str]:
    """What the keys that vary are called, in the order of `Variation.chosen`."""
    names = zip(settings, _short_names(settings), strict=True)
    return [name for setting, name in names if setting.varies]


def _check_count(count: int) -> None:
    if count > MOST:
        raise UsageError(f"this sweep would be {count:,} runs, and the most are {MOST:,}", hint="give fewer values")


def _name(number: str, shown: Sequence[str]) -> str:
    """The name of a folder: what is not safe in one, or too long, is replaced. The number tells names apart."""
    parts = []
    for each in shown:
        safe = _UNSAFE.sub("_", each).strip("_")
        key, _, value = safe.partition("=")
        parts.append(f"{key}={value[:_LONGEST_VALUE]}".rstrip("._-"))
    return "-".join([number, *parts])[:_LONGEST_NAME].rstrip("._-=")


def _split(text: str, word: str) -> list[str]:
    """The parts between commas that are in no brackets and no quotes. Raises UsageError."""
    parts, begin = [], 0
    for at in _commas(text, word):
        parts.append(text[begin:at])
        begin = at + 1
    return [part.strip() for part in [*parts, text[begin:]]]


def _commas(text: str, word: str) -> Iterator[int]:
    open_: list[str] = []
    quoted = escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in _OPENING:
            open_.append(_CLOSING[_OPENING.index(char)])
        elif char in _CLOSING and open_ and char == open_[-1]:
            open_.pop()
        elif char == "," and not open_:
            yield at
    if quoted or open_:
        what = "a quote" if quoted else "a bracket"
        raise UsageError(
            f"--set {word}: {what} is not closed",
            hint='put double quotes around a value with such a sign, and \\" in it',
        )


def _without_quotes(value: str) -> str:
    if len(value) > 2 and re.fullmatch(r'"(?:[^"\\]|\\.)*"', value, re.DOTALL):
        return re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return value
