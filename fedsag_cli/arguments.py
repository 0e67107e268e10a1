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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from fedsag_cli.errors import JobError

_MOST = 2**53  # beyond that a number in a JSON file is no longer exact

KIND_OF = {
    "int": "int", "float": "float", "bool": "bool", "str": "str", "None": "None", "NoneType": "None",
    "list": "list", "tuple": "list", "Sequence": "list", "dict": "dict", "Mapping": "dict",
}  # fmt: skip
"""The kind of a value by the name of a type, as it is written in an annotation."""

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "list": (list, tuple),
    "dict": (Mapping,),
}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "an object",
}

Init = TypeVar("Init", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Least:
    """A number from `value` on."""

    value: float

    def problem(self, given: Any) -> str:
        wrong = _is_number(given) and not self.value <= given < _MOST
        return f"must be a number from {self.value:g} on" if wrong else ""


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words."""

    words: Sequence[str]

    def problem(self, given: Any) -> str:
        wrong = isinstance(given, str) and given not in self.words
        return f"must be {' or '.join(map(repr, self.words))}" if wrong else ""


@dataclass(frozen=True, slots=True)
class EachLeast:
    """An object whose values are all numbers from `value` on."""

    value: float

    def problem(self, given: Any) -> str:
        values = given.values() if isinstance(given, Mapping) else ()
        wrong = not all(_is_number(value) and self.value <= value < _MOST for value in values)
        return f"must map every name to a number from {self.value:g} on" if wrong else ""


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
class Regex:
    """A regular expression. `in_lists`: the texts of a list are such, too."""

    in_lists: bool = False

    def problem(self, given: Any) -> str:
        texts = (
            [given] if isinstance(given, str) else given if self.in_lists and isinstance(given, list | tuple) else []
        )
        try:
            for text in texts:
                re.compile(text)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            return f"must be a regular expression ({error})"
        return ""


@dataclass(frozen=True, slots=True)
class Needs:
    """It has a meaning only where the argument `other` is given too."""

    other: str


Rule = Least | EachLeast | OneOf | Form | Regex | Needs
RULES: Mapping[str, type] = {kind.__name__: kind for kind in (Least, EachLeast, OneOf, Form, Regex, Needs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a constructor.

    `kind` is what it takes, such as "int | None": words of KIND_OF. It is empty if it takes anything else.
    `default` is None if there is none to show.
    """

    name: str
    kind: str = ""
    rules: Sequence[Rule] = ()
    meaning: str = ""
    default: Any = None
    required: bool = False

    def problem(self, given: Any) -> str:
        """What is wrong with a value, such as "must be a whole number, not 'x'"; empty if nothing is."""
        if self.kind and not any(_is(given, word) for word in self.kind.split(" | ")):
            return f"must be {' or '.join(_EXPECTED[word] for word in self.kinds)}, not {given!r}"
        problems = (rule.problem(given) for rule in self.rules if not isinstance(rule, Needs))
        return next((f"{problem}, not {given!r}" for problem in problems if problem), "")

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of value it takes, None left out; empty if it takes anything."""
        return [word for word in self.kind.split(" | ") if word not in ("", "None")]

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
        for name, problem in problems(declared(init), given).items():
            raise JobError(f"{type(self).__name__}: {name} {problem}")
        init(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


@functools.cache
def declared(init: Callable[..., None]) -> Sequence[Argument]:
    """The arguments of a constructor, as its annotations declare them; the first, self, is left out."""
    hints = get_type_hints(init, include_extras=True)
    return [
        declaration(
            parameter.name,
            hints.get(parameter.name, Any),
            required=parameter.default is parameter.empty,
            default=None if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in list(inspect.signature(init).parameters.values())[1:]
    ]


def declared_fields(struct: type[msgspec.Struct]) -> Sequence[Argument]:
    """The same of a struct: those of its fields that have a meaning, by the names they have in a config file."""
    hints = get_type_hints(struct, include_extras=True)
    found = [
        declaration(
            field.encode_name,
            hints[field.name],
            required=field.required,
            default=None if field.required else getattr(field.default, "value", field.default),  # an enum's
        )
        for field in msgspec.structs.fields(struct)
    ]
    return [argument for argument in found if argument.meaning]


def declaration(name: str, hint: Any, *, required: bool, default: Any) -> Argument:
    """The argument that an annotation declares."""
    parts = _alternatives(hint)
    about = [each for part in parts for each in (get_args(part)[1:] if get_origin(part) is Annotated else ())]
    types_named = [each for part in parts for each in _alternatives(_bare(part))]
    return Argument(
        name=name,
        kind=kind_of(map(_type_name, types_named)),
        rules=tuple(each for each in about if isinstance(each, Rule)),
        meaning=next((each for each in about if isinstance(each, str)), ""),
        default=default,
        required=required,
    )


def kind_of(names: Iterable[str]) -> str:
    """The kind of an argument that takes values of these types; empty if one of them is not in KIND_OF."""
    kinds = [KIND_OF.get(name, "") for name in names]
    return " | ".join(dict.fromkeys(kinds)) if all(kinds) else ""


def _alternatives(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _type_name(hint: Any) -> str:
    made = get_origin(hint) or hint
    return "str" if isinstance(made, type) and issubclass(made, str) else getattr(made, "__name__", "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(value: Any, kind: str) -> bool:
    return kind == "bool" if isinstance(value, bool) else isinstance(value, _TYPES[kind])
