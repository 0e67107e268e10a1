"""JSON Schemas (draft 2020-12) of report.json and of a line of events.jsonl, beside this file, made of their structs.

    json.loads(importlib.resources.files("fedsag_cli.schemas").joinpath("report.schema.json").read_bytes())

They describe what this version of fedsag writes: all fields are there. `scripts/schemas` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fedsag_cli import events, report

FOLDER = Path(__file__).parent

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas, by the names of their files."""
    title = "A line of events.jsonl and of --format json"
    return {
        "report.schema.json": _schema("report", report.FORMAT, "report.json", report.Report),
        "events.schema.json": _schema("events", events.FORMAT, title, events.AnyEvent),
    }


def encoded(schema: dict[str, Any]) -> bytes:
    """The schema as its file has it."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _schema(name: str, version: int, title: str, kind: Any) -> dict[str, Any]:
    """The schema of a kind of struct. `version`: its fields `format` have it."""
    made = msgspec.json.schema(kind)
    for struct in made["$defs"].values():
        struct["required"] = list(struct["properties"])  # a default is written too
        if "format" in struct["properties"]:
            struct["properties"]["format"] = {"const": version}
    return {"$schema": _DIALECT, "$id": f"urn:fedsag:{name}:{version}", "title": f"{title}, version {version}"} | made
