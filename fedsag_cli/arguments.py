"""How a component declares the arguments of its constructor: each one once, with its type, its rules and its meaning.

    NumRounds = Annotated[int, Least(1), "number of rounds"]

    class BestOfAll:
        @checked
        def __init__(self, persistor: Persistor, num_rounds: NumRounds = 5) -> None: ...

A wrong value in a job is reported before any process starts: `catalog` reads the declaration from the source, without
importing the component. For an object that is made in Python, `checked` reports it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from fedsag_cli.errors import JobError

_LIMIT = 2**53  # a larger whole number in a JSON file is not exact
_BELOW_LIMIT = "must be a number below 2**53"

KIND_OF = {
    "int": "int", "float": "float", "bool": "bool", "str": "str", "None": "None", "NoneType": "None",
    "list": "list", "tuple": "list", "Sequence": "list", "dict": "dict", "Mapping": "dict",
}  # fmt: skip
"""The kind of a value, by the name of its type in an annotation."""

_CONTRACTS = {
    "Accountant", "Aggregator", "Filter", "IntimeModelSelector", "JsonStatsFileWriter", "Persistor", "Sampler",
    "Tracker", "Updater",
}  # fmt: skip

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


class Least(msgspec.Struct, frozen=True):
    """A number that is at least `value`."""

    value: float

    def problem(self, given: Any) -> str:
        if not _is_number(given) or self.value <= given < _LIMIT:
            return ""
        return _BELOW_LIMIT if given >= _LIMIT else f"must be a number from {self.value:g} on"


class Most(msgspec.Struct, frozen=True):
    """A number that is at most `value`."""

    value: float

    def problem(self, given: Any) -> str:
        wrong = _is_number(given) and not given <= self.value
        return f"must be a number up to {self.value:g}" if wrong else ""


class Above(msgspec.Struct, frozen=True):
    """A number that is greater than `value`."""

    value: float

    def problem(self, given: Any) -> str:
        if not _is_number(given) or self.value < given < _LIMIT:
            return ""
        return _BELOW_LIMIT if given >= _LIMIT else f"must be a number above {self.value:g}"


class OneOf(msgspec.Struct, frozen=True):
    """One of these words."""

    words: Sequence[str]

    def problem(self, given: Any) -> str:
        if not isinstance(given, str) or given in self.words:
            return ""
        near = difflib.get_close_matches(given, self.words, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        return f"must be {' or '.join(map(repr, self.words))}{meant}"


class EachLeast(msgspec.Struct, frozen=True):
    """An object whose values are all numbers of at least `value`."""

    value: float

    def problem(self, given: Any) -> str:
        values = given.values() if isinstance(given, Mapping) else ()
        wrong = not all(_is_number(value) and self.value <= value < _LIMIT for value in values)
        return f"must map every name to a number from {self.value:g} on" if wrong else ""


class Form(msgspec.Struct, frozen=True):
    """A text that matches `pattern` as a whole. `description` and `example` are for messages."""

    pattern: str
    description: str
    example: str

    def problem(self, given: Any) -> str:
        wrong = isinstance(given, str) and not re.fullmatch(self.pattern, given)
        return f"must be {self.description}, such as {self.example!r}" if wrong else ""


class Regex(msgspec.Struct, frozen=True):
    """A regular expression. `in_lists`: a list of regular expressions is accepted too."""

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


class Needs(msgspec.Struct, frozen=True):
    """The argument has an effect only if the argument `other` is given too."""

    other: str


Rule = Least | Most | Above | EachLeast | OneOf | Form | Regex | Needs
RULES: Mapping[str, type] = {kind.__name__: kind for kind in (Least, Most, Above, EachLeast, OneOf, Form, Regex, Needs)}


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument of a constructor.

    `kind` names the values it takes, such as "int | None", in the words of KIND_OF. It is empty if the argument takes
    other values. `default` is None if there is no default to show. `is_component`: it takes a component, which a job
    names by its id.
    """

    name: str
    kind: str = ""
    rules: Sequence[Rule] = ()
    meaning: str = ""
    default: Any = None
    required: bool = False
    is_component: bool = False

    def problem(self, given: Any) -> str:
        """What is wrong with a value, such as "must be a whole number, not 'x'"; empty if it is valid."""
        if self.kind and not any(_is(given, word) for word in self.kind.split(" | ")):
            return f"must be {' or '.join(_EXPECTED[word] for word in self.kinds)}, not {given!r}"
        if self.is_component and isinstance(given, str | int | float | list):
            return f"must be a component, not {given!r}: name it by its id, in {self.name}_id"
        problems = (rule.problem(given) for rule in self.rules if not isinstance(rule, Needs))
        return next((f"{problem}, not {given!r}" for problem in problems if problem), "")

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of value it takes, without None; empty if it takes any value."""
        return [word for word in self.kind.split(" | ") if word not in ("", "None")]

    @property
    def needs(self) -> Sequence[str]:
        """The arguments without which this one has no effect."""
        return [rule.other for rule in self.rules if isinstance(rule, Needs)]


def problems(arguments: Sequence[Argument], given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the given values, by the name of the argument."""
    found: dict[str, str] = {}
    for argument in arguments:
        if not {argument.name, f"{argument.name}_id"} & set(given):
            continue
        has_value = given.get(argument.name) is not None or _is_given(f"{argument.name}_id", given)
        missing = [
            other
            for other in argument.needs
            if has_value and not (_is_given(other, given) or _is_given(f"{other}_id", given))
        ]
        problem = argument.problem(given[argument.name]) if argument.name in given else ""
        if problem := problem or (f"needs {missing[0]}, which is not given" if missing else ""):
            found[argument.name] = problem
    return found


def _is_given(name: str, given: Mapping[str, Any]) -> bool:
    return given.get(name) not in (None, "")


def checked(init: Init) -> Init:
    """Decorate a constructor: before it runs, each argument is checked against its declaration.

    Raises JobError naming the class, the argument and the rule.
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
    """The arguments of a constructor, as its annotations declare them.

    The first, self, is left out, and what stands for any number of arguments (`*args`, `**kwargs`).
    """
    hints = _hints(init)
    return [
        declaration(
            parameter.name,
            hints.get(parameter.name, Any),
            required=parameter.default is parameter.empty,
            default=None if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in list(inspect.signature(init).parameters.values())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


@functools.cache
def declared_fields(struct: type[msgspec.Struct]) -> Sequence[Argument]:
    """The same for a struct: the fields that have a meaning, by their names in a config file."""
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
    types_named = [_type_name(each) for part in parts for each in _alternatives(_bare(part))]
    if default is None and not required:
        types_named.append("None")
    return Argument(
        name=name,
        kind=kind_of(types_named),
        rules=tuple(each for each in about if isinstance(each, Rule)),
        meaning=next((each for each in about if isinstance(each, str)), ""),
        default=default,
        required=required,
        is_component=is_component(types_named),
    )


def is_component(names: Iterable[str]) -> bool:
    """Whether an argument of these types takes a component."""
    return not _CONTRACTS.isdisjoint(names)


def kind_of(names: Iterable[str]) -> str:
    """The kind of an argument that takes values of these types.

    Empty where one of them is not in KIND_OF, and for None alone: that names no type.
    """
    kinds = dict.fromkeys(KIND_OF.get(name, "") for name in names)
    return "" if "" in kinds or list(kinds) == ["None"] else " | ".join(kinds)


def _hints(init: Callable[..., None]) -> dict[str, Any]:
    """The annotations of a constructor, without those that name what is there for type checkers only."""
    try:
        return get_type_hints(init, include_extras=True)
    except NameError:
        pass
    found: dict[str, Any] = {}
    for name, hint in init.__annotations__.items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        with contextlib.suppress(NameError):
            found |= get_type_hints(one, init.__globals__, include_extras=True)
    return found


def _alternatives(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _type_name(hint: Any) -> str:
    named = get_origin(hint) or hint
    return "str" if isinstance(named, type) and issubclass(named, str) else getattr(named, "__name__", "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(value: Any, kind: str) -> bool:
    return kind == "bool" if isinstance(value, bool) else isinstance(value, _TYPES[kind])
