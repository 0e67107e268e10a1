"""Where in a command line the next word stands, and which words the Tab key offers there."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from typing import Any

import typer

from fedsag_cli.cli.completion import TAKES_FOLDERS, Offer
from fedsag_cli.cli.overrides import FILE_FLAGS
from fedsag_cli.errors import FedsagError

FOLDERS, NOTHING = "folders", "nothing"
_LONGEST = 80  # of a meaning


def offers(root: Any, raw_words: Sequence[str]) -> tuple[str, list[Offer]]:
    """What a shell offers if no word fits, FOLDERS or NOTHING; and the words that may follow, with their meanings.

    `raw_words`: the words after the command's name as they were typed, with quotes; the last one is not complete.
    """
    *words, incomplete = map(_unquoted, raw_words or [""])
    here = _Position(root, words)
    flag, equals, value = incomplete.partition("=")
    parameter = here.parameter
    if not incomplete.startswith("-") or here.is_value:
        found = here.offers(parameter, incomplete) if parameter else _commands(here.command, incomplete)
    elif equals:
        parameter = here.options.get(flag)
        found = [(f"{flag}={word}", meaning) for word, meaning in here.offers(parameter, value)] if parameter else []
    else:
        parameter, found = None, _options(here.command, incomplete)
    shown = {word: _shortened(meaning) for word, meaning in found if word.isprintable()}
    return FOLDERS if _takes_folders(parameter) else NOTHING, list(shown.items())


class _Position:
    """The command that the words name, and the parameter that the next word is for."""

    def __init__(self, root: Any, words: Sequence[str]) -> None:
        self._typed: dict[str, list[str]] = {}
        self._option: Any = None  # the next word may belong to it
        self._enter(root)
        for word in words:
            self._take(word)

    @property
    def is_value(self) -> bool:
        """Whether the next word is the value of an option, whatever it looks like."""
        return self._option is not None and not self._typed[self._option.name]

    @property
    def parameter(self) -> Any:
        """The option or argument that the next word is for; None if it is for none."""
        return self._option or next(iter(self._arguments), None)

    def offers(self, parameter: Any, incomplete: str) -> list[Offer]:
        context: Any = typer.Context(self.command)
        context.params = self._typed
        try:
            return [(str(item.value), item.help or "") for item in parameter.shell_complete(context, incomplete)]
        except (FedsagError, OSError):  # a template or a job is broken: its commands say so
            return []

    def _enter(self, command: Any) -> None:
        self.command = command
        self.options = {flag: each for each in command.params if _is_option(each) for flag in each.opts}
        self._arguments = [each for each in command.params if not _is_option(each)]

    def _take(self, word: str) -> None:
        flag, equals, value = word.partition("=")
        if self.is_value or (self._option and not word.startswith("-")):
            self._add(self._option, word)
        elif word.startswith("-"):
            self._option = self.options.get(flag)
            if self._option is None or self._option.is_flag:
                self._option = None
                return
            self._typed[self._option.name] = []
            if equals:
                self._add(self._option, value)
        elif word in getattr(self.command, "commands", ()):
            self._enter(self.command.commands[word])
        elif self._arguments:
            self._typed.setdefault(self._arguments[0].name, []).append(word)
            if self._arguments[0].nargs != -1:
                del self._arguments[0]

    def _add(self, option: Any, word: str) -> None:
        self._typed[option.name].append(word)
        if not set(FILE_FLAGS) & set(option.opts):  # all others take one word
            self._option = None


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _takes_folders(parameter: Any) -> bool:
    """Whether the user may name any folder there. Its type decides, or its name if it takes other texts, too."""
    if parameter is None:
        return False
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    return getattr(kind, "__name__", "") == "Path" or parameter.name in TAKES_FOLDERS


def _commands(command: Any, incomplete: str) -> list[Offer]:
    known = getattr(command, "commands", {}).items()
    return [
        (name, each.get_short_help_str(_LONGEST))
        for name, each in known
        if name.startswith(incomplete) and not each.hidden
    ]


def _options(command: Any, incomplete: str) -> list[Offer]:
    """The options; of names that differ only in - and _, the first that fits."""
    found: list[Offer] = []
    for option in filter(_is_option, command.params):
        fitting: dict[str, str] = {}
        for flag in option.opts:
            if flag.startswith(incomplete) and not option.hidden:
                fitting.setdefault(flag.lstrip("-").replace("-", "_"), flag)
        found += [(flag, option.help or "") for flag in fitting.values()]
    return found + [(flag, "Show this message and exit.") for flag in ("-h", "--help") if flag.startswith(incomplete)]


def _unquoted(word: str) -> str:
    """The word without the quotes and backslashes of a shell; the last quote may not be closed yet."""
    for end in ("", '"', "'"):
        with contextlib.suppress(ValueError):
            return "".join(shlex.split(word + end))
    return word


def _shortened(meaning: str) -> str:
    line = " ".join(meaning.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
