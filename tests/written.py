"""What runs write, held against the JSON Schemas of it."""

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The schema as a user reads it: report or events."""
    read = json.loads(resources.files("fedsag_cli.schemas").joinpath(f"{name}.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(read)
    return read


@functools.cache
def validator(name: str, kind: str = "") -> jsonschema.Draft202012Validator:
    """`kind`: of events, the only one that may be. Its errors are short, and it need not try the others."""
    whole = schema(name)
    if kind:
        assert {"$ref": f"#/$defs/{kind}"} in whole["anyOf"]
        whole = {"$defs": whole["$defs"], "$ref": f"#/$defs/{kind}"}
    return jsonschema.Draft202012Validator(whole)


def faults_of_line(line: str) -> list[str]:
    """In what a line of events is not as its schema says."""
    event = json.loads(line, parse_constant=_refuse)
    return [f"{error.message} in {event}" for error in validator("events", event["event"]).iter_errors(event)]


def faults(workspace: Path) -> list[str]:
    """In what the files of a run are not as the schemas say."""
    report = json.loads((workspace / "report.json").read_bytes(), parse_constant=_refuse)
    found = [f"{error.json_path}: {error.message}" for error in validator("report").iter_errors(report)]
    for line in (workspace / "events.jsonl").read_text().splitlines():
        found += faults_of_line(line)
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
