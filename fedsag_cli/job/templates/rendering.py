"""Renders a template's config files, which are Jinja2 texts, to HOCON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon
from fedsag_cli.job.templates import bounded

# only parts of Jinja with limited time and size, because a template may come from another person
_JINJA = (
    "Template", "TemplateData", "Output", "Name", "Const", "If", "For", "CondExpr", "And", "Or", "Not", "Compare",
    "Operand", "Test", "Getattr", "Getitem", "Slice", "List", "Tuple", "Dict", "Pair", "Add", "Sub", "Neg", "Concat",
    "Filter", "Call",
)  # fmt: skip


_FILTERS = ("default", "first", "last", "length", "list", "lower", "sort", "trim", "unique", "upper")


_MOST_STEPS = 10_000


def render(text: str, values: Mapping[str, Any], *, name: str) -> str:
    """The text with its variables rendered as HOCON; the rest is unchanged. Raises JobError.

    The text may use conditions, and loops with a limited number of steps. Other features of Jinja are errors.
    """
    import jinja2.sandbox  # noqa: F401  here, so that the child processes need not; listing templates does not need it

    return bounded.text_of(lambda: _rendered(text, values, name), name=name)


def _rendered(text: str, values: Mapping[str, Any], name: str) -> str:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    steps = iter(range(_MOST_STEPS))

    def counted(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if next(steps, None) is None:
                raise ValueError(f"its loops take more than {_MOST_STEPS} steps")
            yield item

    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, jinja2.Undefined) else hocon.literal(value),
        keep_trailing_newline=True,
        comment_start_string="{{#",  # `{#` may open an object whose first line is a HOCON comment
        comment_end_string="#}}",
    )
    environment.filters["counted"] = counted
    rendered: list[str] = []
    try:
        parsed = environment.parse(text)
        _check_jinja(parsed.find_all(jinja2.nodes.Node), name)
        for loop in list(parsed.find_all(jinja2.nodes.For)):
            loop.iter = jinja2.nodes.Filter(loop.iter, "counted", [], [], None, None)
        budget = hocon.LARGEST
        for piece in environment.from_string(parsed).generate(values):
            budget -= len(piece)
            if budget < 0:
                raise ValueError("the file becomes too large")
            rendered.append(piece)
    except jinja2.TemplateSyntaxError as error:
        raise JobError(f"{name}: line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise JobError(f"{name}: nested too deeply") from None
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise JobError(f"{name}: {error}", hint="info.conf declares the variables in {{ }}") from None
    return "".join(rendered)


def _check_jinja(nodes: Iterable[Any], name: str) -> None:
    """Raises JobError for Jinja that is not allowed in a template."""
    for node in nodes:
        kind = type(node).__name__
        known = kind in _JINJA
        if kind == "Filter":
            known, kind = node.name in _FILTERS, f"the filter {node.name!r}"
        elif kind == "Call":
            known, kind = getattr(node.node, "name", None) == "range", "a call"
        if not known:
            raise JobError(
                f"{name}: line {node.lineno}: {kind} cannot be used in a template",
                hint="{{ a variable }}, {% if %} and {% for %} can",
            )
