"""The section about a run, in Markdown, that `--summary` appends to a file: CI shows it as the summary of a step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedsag_cli import foreign
from fedsag_cli.cli import baselines, display, failures, table, wording
from fedsag_cli.errors import FedsagError, Interrupted, UsageError, counted
from fedsag_cli.report import Report
from fedsag_cli.report.baselines import doubts
from fedsag_cli.workspace import by_number

_WIDTH = 160  # columns of a terminal of which the table would take as many
_MOST_ROWS = 200  # of the table: GitHub shows at most 1 MiB a step
_MOST_KINDS = 10  # of failures
_SPECIAL = re.compile(r"[\\`*_\[\]|~$#]")  # what means something to Markdown within a line
_TAGS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_FENCE = "```"


def check_writable(file: Path) -> None:
    """Raises UsageError if nothing can be appended to the file. Makes no file."""
    if file == Path():
        raise UsageError("--summary needs the name of a file", hint="is a variable of the shell not set?")
    reason = ""
    if file.is_dir():
        reason = "it is a folder"
    elif not file.parent.is_dir():
        reason = f"there is no folder {file.parent}"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        reason = "you may not write there"
    if reason:
        raise UsageError(f"--summary {file}: {reason}", hint="name a file in a folder that exists")


def append(file: Path, report: Report, error: FedsagError | None = None) -> None:
    """Append the section. Where that fails, a warning says so: the run has gone as it has."""
    try:
        with file.open("a", encoding="utf-8") as summary:
            summary.write(section(report, error))
    except OSError as failed:
        display.warning(f"--summary {file} cannot be written: {failed.strerror}")


def section(report: Report, error: FedsagError | None = None) -> str:
    """The section. `error`: that with which the command ends."""
    report = foreign.masked(report)
    parts = [f"### fedsag: {_text(report.job)} {_status(report, error)}"]
    if error is not None:
        parts.append(f"Error: {_text(foreign.masked(error.message))}")
        parts += [f"Hint: {_text(foreign.masked(error.hint))}"] if error.hint else []
    parts += [*_table(report), *_baselines(report), _facts(report), *_failures(report)]
    return "\n\n".join(parts) + "\n\n"


def _status(report: Report, error: FedsagError | None) -> str:
    if error is None:
        return "finished"
    ended = "was interrupted" if isinstance(error, Interrupted) else "failed"
    return f"finished, but the command {ended}" if report.ok else ended


def _table(report: Report) -> Iterator[str]:
    made = table.brief(report, _WIDTH)
    if not made.rows:
        return
    yield _as_table(made.columns, made.rows[-_MOST_ROWS:])
    left_out = [made.left_out] if made.left_out else []
    left_out += ["the first rounds"] if len(made.rows) > _MOST_ROWS else []
    if left_out:
        yield f"Not in the table: {' and '.join(left_out)}; report.json has all."


def _baselines(report: Report) -> Iterator[str]:
    if rows := baselines.rows(report):
        yield _as_table(list(rows[0]), rows)
    for text in doubts(report):
        yield f"Note: {_text(text)}"


def _as_table(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    head, *body = (f"| {' | '.join(map(_text, row))} |" for row in [columns, *_cells(columns, rows)])
    return "\n".join([head, "|---" * len(columns) + "|", *body])


def _cells(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Iterator[list[str]]:
    for row in rows:
        yield [row[column] or "-" for column in columns]


def _facts(report: Report) -> str:
    facts = [
        counted(len(report.sites), "client"),
        counted(report.rounds_done, "complete round"),
        *([f"set {_code(' '.join(report.overrides))}"] if report.overrides else []),
        f"seed {report.seed}",
        *([] if report.seconds is None else [wording.duration(report.seconds)]),
        *([f"digest {_code(report.digest)}"] if report.digest else []),
        f"workspace {_code(report.workspace)}",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _failures(report: Report) -> Iterator[str]:
    """Each kind of failure once, with the end of the log of the first site."""
    kinds = failures.by_kind(report)
    for sites in kinds[:_MOST_KINDS]:
        first = report.failures[sites[0]]
        when = "" if first.round_num is None else f" in round {first.round_num}"
        who = wording.few(sorted(sites, key=by_number))
        place = f", at {_code(first.failure.where)}" if first.failure.where else ""
        yield f"**{_text(who)}** failed{when}: {_text(first.failure.cause)}{place}"
        if first.failure.log_tail:
            yield f"The last lines of {_code(first.failure.log)}:"
            yield _block(first.failure.log_tail)
    if len(kinds) > _MOST_KINDS:
        yield f"{counted(len(kinds) - _MOST_KINDS, 'more kind')} of failures; report.json has all."


def _text(text: str) -> str:
    """The text on one line, in which nothing is taken for Markdown or HTML."""
    escaped = _SPECIAL.sub(lambda found: f"\\{found[0]}", foreign.one_line(text))
    return "".join(_TAGS.get(char, char) for char in escaped)


def _code(text: str) -> str:
    """The text within a line as it is, in the font of code."""
    text = foreign.one_line(text)
    fence = "`" * (1 + _longest_run(text))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _block(lines: Sequence[str]) -> str:
    """The lines as they are. No line ends the block."""
    shown = [foreign.one_line(line) for line in lines]
    fence = _FENCE + "`" * max(map(_longest_run, shown), default=0)
    return "\n".join([f"{fence}text", *shown, fence])


def _longest_run(text: str) -> int:
    """The largest number of backticks that follow each other."""
    return max(map(len, re.findall("`+", text)), default=0)
