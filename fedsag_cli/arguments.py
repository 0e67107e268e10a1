"""How a component declares the arguments of its constructor: each one once, with its type, its rules and its meaning.

    NumRounds = Annotated[int, Least(1), "number of rounds"]

    class BestOfAll:
        @checked
        def __init__(self, persistor: Persistor, num_rounds: NumRounds = 5) -> None: ...

A job's author is told of a wrong value before anything starts: `catalog` reads the declaration from the source, without
importing the component. Whoever makes the object in Python is told by `checked`.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fedsag_cli.errors import JobError

_MOST = 2**53  # beyond that a number in a JSON file is no longer exact

_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}

Init = TypeVar("Init", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Least:
    """A number from `value` on."""

    value: float

    def problem(self, given: Any) -> str:
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        return f"must be a number from {self.value:g} on" if is_number and not self.value <= given < _MOST else ""


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words."""

    words: Sequence[str]

    def problem(self, given: Any) -> str:
        wrong = isinstance(given, str) and given not in self.words
        return f"must be {' or '.join(map(repr, self.words))}" if wrong else ""


@dataclass(frozen=True, slots=True)
class Form:
    """A text of a form: the whole of it matches `pattern`. `what` describes it, `example` is one."""

    pattern: str
    what: str
    example: str

    def problem(self, given: Any) -> str:
        wrong = isinstance(given, str) and not re.fullmatch(self.pattern, given)
        return f"must be {self.what}, such as {self.example!r}" if wrong else ""


@dataclass(frozen=True, slots=True)
class Needs:
    """It has a meaning only where the argument `other` is given too."""

    other: str


Rule = Least | OneOf | Form | Needs
RULES: Mapping[str, type] = {kind.__name__: kind for kind in (Least, OneOf, Form, Needs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a constructor.

    `kind` is its type as it is written, such as "int | None"; empty where it is none of the plain types. `default` is
    None where there is none to show.
    """

    name: str
    kind: str = ""
    rules: Sequence[Rule] = ()
    meaning: str = ""
    default: Any = None
    required: bool = False

    def problem(self, given: Any) -> str:
        """What is wrong with a value, such as "must be a whole number, not 'x'"; empty where nothing is."""
        words = self.kind.split(" | ")
        if self.is_plain and not any(_is(given, word) for word in words):
            expected = " or ".join(_WORDS[word] for word in words if word != "None")
            return f"must be {expected}, not {given!r}"
        problems = (rule.problem(given) for rule in self.rules if not isinstance(rule, Needs))
        return next((f"{problem}, not {given!r}" for problem in problems if problem), "")

    @property
    def is_plain(self) -> bool:
        """Whether it takes numbers, bools and texts only, so that a value can be held against its type."""
        return bool(self.kind) and all(word in _PLAIN for word in self.kind.split(" | "))

    @property
    def needs(self) -> Sequence[str]:
        """The arguments without which it has no meaning."""
        return [rule.other for rule in self.rules if isinstance(rule, Needs)]


def problems(arguments: Sequence[Argument], given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the values given, by the name of the argument."""
    found: dict[str, str] = {}
    for argument in arguments:
        if argument.name not in given:
            continue
        value = given[argument.name]
        missing = [other for other in argument.needs if value is not None and given.get(other) in (None, "")]
        if problem := argument.problem(value) or (f"needs {missing[0]}, which is not given" if missing else ""):
            found[argument.name] = problem
    return found


def checked(init: Init) -> Init:
    """For a constructor: before it runs, each argument is held against its declaration.

    Raises JobError naming the class, the argument and what it must be.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        for name, problem in problems(_declared(init), given).items():
            raise JobError(f"{type(self).__name__}: {name} {problem}")
        init(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


@functools.cache
def _declared(init: Callable[..., None]) -> Sequence[Argument]:
    """As the annotations of a constructor have them, the first argument, self, left out."""
    hints = get_type_hints(init, include_extras=True)
    arguments = []
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        hint = _outermost(hints.get(parameter.name, Any))
        about = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        has_default = parameter.default is not parameter.empty
        arguments.append(
            Argument(
                name=parameter.name,
                kind=_kind(get_args(hint)[0] if about else hint),
                rules=tuple(each for each in about if isinstance(each, Rule)),
                meaning=next((each for each in about if isinstance(each, str)), ""),
                default=parameter.default if has_default else None,
                required=not has_default,
            )
        )
    return arguments


def _outermost(hint: Any) -> Any:
    """Python 3.10 puts a declaration whose default is None into an Optional."""
    return next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)


def _kind(hint: Any) -> str:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    names = ["None" if part is type(None) else getattr(part, "__name__", "") for part in parts]
    return " | ".join(names) if all(name in _PLAIN for name in names) else ""


def _is(value: Any, kind: str) -> bool:
    return kind == "bool" if isinstance(value, bool) else isinstance(value, _PLAIN[kind])
