"""The option `-f` of `job create`: a file of the job, and all `key=value` words after it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from fedsag_cli.errors import UsageError

FILE_FLAGS = ("-f", "--config_file", "--config-file")
FORCE_FLAGS = ("-force", "--force")
_SEPARATOR = "\0"  # no word of a command line can contain it


class CommandWithOverrides(TyperCommand):
    """A command whose option `-f` takes a file and all `key=value` words after it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, fold(args))


def fold(args: list[str]) -> list[str]:
    """Join the words of `-f FILE k=v k=v`, up to the next flag, into one value of `-f`. Raises UsageError."""
    folded: list[str] = []
    words = iter(args)
    group: list[str] | None = None
    for word in words:
        flag, equals, file = word.partition("=")
        if word in FILE_FLAGS or (equals and flag in FILE_FLAGS):
            file = file if equals else next(words, "")
            if not file or file.startswith("-"):
                raise UsageError(
                    f"{flag} needs a file of the job", hint="example: -f config_fed_server.conf num_rounds=5"
                )
            group = [file]
            folded += ["-f", file]
        elif group is not None and not word.startswith("-"):
            if "=" not in word and not word.endswith("-"):
                raise UsageError(
                    f"-f {group[0]}: {word!r}: key=value is expected",
                    hint='put quotes around a value with spaces: app_config="--lr 0.1"; key- removes a key',
                )
            group.append(word)
            folded[-1] = _SEPARATOR.join(group)
        elif word.startswith("-f") and word not in FORCE_FLAGS:
            raise _unknown_option(word)  # click would read -forec as -f with the file "orec"
        else:
            group = None
            folded.append(word)
    return folded


def unfold(values: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The file and the words of each `-f`, from the values that `fold` has joined."""
    groups = [value.split(_SEPARATOR) for value in values]
    return [(file, words) for file, *words in groups]


def _unknown_option(word: str) -> UsageError:
    near = difflib.get_close_matches(word, FORCE_FLAGS, n=1)
    return UsageError(f"unknown option {word!r}", hint=f"did you mean {near[0] if near else f'-f {word[2:]}'!r}?")
