"""Reads typed values from one object of a config file. Every error names the file, the key and the value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedsag_cli.errors import Gathering, JobError, nearest
from fedsag_cli.job.config import tree
from fedsag_cli.job.config.tree import KeyPath


class Section:
    """The object at the key path `at` of `file`. A key that is read without a default must exist."""

    def __init__(self, values: Mapping[str, Any], file: str, at: KeyPath = ()) -> None:
        self.values = values
        self.file = file
        self.at = at

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._read(key, default, str, "a text"))

    def number(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        number = self._read(key, default, int, "a whole number")
        if number < least:
            raise self.wrong(key, f"must be at least {least}, not {number}")
        return int(number)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return bool(self._read(key, default, bool, "true or false"))

    def choice(self, key: str, default: str | None, known: Iterable[str]) -> str:
        word = self.text(key, default)
        if word not in known:
            raise self.wrong(key, f"must be {' or '.join(map(repr, known))}, not {word!r}")
        return word

    def texts(self, key: str, default: Iterable[str] | None = None) -> list[str]:
        words = self._read(key, None if default is None else list(default), list, "a list of texts")
        if not all(isinstance(word, str) for word in words):
            raise self.wrong(key, f"must be a list of texts, not {words!r}")
        return list(words)

    def section(self, key: str, default: Mapping[str, Any] | None = None) -> Section:
        return Section(self._read(key, default, Mapping, "an object"), self.file, (*self.at, key))

    def sections(self, key: str) -> Iterator[Section]:
        """The objects in a list; empty if the key is missing."""
        for index, values in enumerate(self._read(key, [], list, "a list of objects")):
            if not isinstance(values, Mapping):
                raise self.wrong(key, f"must be a list of objects, not {values!r}")
            yield Section(values, self.file, (*self.at, key, index))

    def expect(self, known: Iterable[str]) -> None:
        """Raises JobError for keys that are not in `known`."""
        known = list(known)
        with Gathering() as found:
            for key in self.values:
                if key not in known:
                    found.add(self.error(key, ": there is no such key", hint=nearest(key, known)))

    def wrong(self, key: str, problem: str, *, hint: str = "") -> JobError:
        return self.error(key, f" {problem}", hint=hint)

    def error(self, key: str, text: str, *, hint: str = "") -> JobError:
        """An error about a key, or about the object if the key is empty: the text follows its name."""
        at = (*self.at, key) if key else self.at
        return JobError(f"{self.called(key)}{text}", hint=hint, file=self.file, at=at)

    def called(self, key: str = "") -> str:
        return f"{self.file}: {tree.written((*self.at, key) if key else self.at)}"

    def _read(self, key: str, default: Any, kind: type | tuple[type, ...], expected: str) -> Any:
        if key not in self.values:
            if default is None:
                raise self.wrong(key, "is missing", hint=f"it must be {expected}")
            return default
        value = self.values[key]
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise self.wrong(key, f"must be {expected}, not {value!r}")
        return value
