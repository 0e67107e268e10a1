"""The metadata of a pack as an RO-Crate 1.1, with the profile Process Run Crate 0.5.

https://www.researchobject.org/ro-crate/specification/1.1/ and https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import fedsag_cli
from fedsag_cli.report import Report
from fedsag_cli.simulator.packs import CRATE, DIGESTS, JOB, PACK, PLAN, REPORT, Pack

_CRATE, _PROFILE = "https://w3id.org/ro/crate/1.1", "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT = [f"{_CRATE}/context", "https://w3id.org/ro/terms/workflow-run/context"]
_DONE, _FAILED = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
_FEDSAG, _RUN, _LICENSE = "#fedsag", "#run", "#license"
_MEANINGS = {
    PACK: "The settings of the run, and the SHA-256 of every other file.",
    PLAN: "The plan of the run: the job with every setting resolved.",
    REPORT: "The results of the run: metrics by round and client, who answered, times, failures.",
    DIGESTS: "The digest of each model that travelled and of each of its tensors, in the order of the run.",
}
_TYPES = {".json": "application/json", ".jsonl": "application/jsonl", ".py": "text/x-python"}


def metadata(pack: Pack, report: Report, sizes: Mapping[str, int]) -> bytes:
    """ro-crate-metadata.json, as JSON-LD. `sizes`: of the files in the pack, in bytes; pack.json is not among them."""
    ended = datetime.fromtimestamp(report.began + (report.seconds or 0.0), timezone.utc).isoformat(timespec="seconds")
    job = f"{JOB}/{quote(pack.folder)}/"
    files = [_file(name, pack, size) for name, size in sizes.items()]
    files.append(_file(PACK, pack, None))
    graph: list[dict[str, Any]] = [
        {"@id": CRATE, "@type": "CreativeWork", "conformsTo": _ref(_CRATE), "about": _ref("./")},
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"A federated run of the job {pack.job}",
            "description": f"{_told(pack)} `fedsag verify` makes the run again and compares the digests.",
            "datePublished": ended,
            "license": _ref(_LICENSE),
            "conformsTo": _ref(_PROFILE),
            "hasPart": [_ref(job), *(_ref(each["@id"]) for each in files if not each["@id"].startswith(f"{JOB}/"))],
            "mentions": _ref(_RUN),
        },
        {
            "@id": _LICENSE,
            "@type": "CreativeWork",
            "name": "Not stated",
            "description": "A pack does not know the license of the job's files: ask who made them.",
        },
        {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": _FEDSAG,
            "@type": "SoftwareApplication",
            "name": "fedsag",
            "softwareVersion": pack.versions.get("fedsag", fedsag_cli.__version__),
            "softwareRequirements": [
                f"{name} {version}" for name, version in sorted(pack.versions.items()) if name != "fedsag"
            ],
        },
        {
            "@id": job,
            "@type": "Dataset",
            "name": pack.job,
            "description": "The files of the job that the run used.",
            "hasPart": [_ref(each["@id"]) for each in files if each["@id"].startswith(f"{JOB}/")],
        },
        _run(pack, report, job, ended),
        *_parameters(pack),
        *files,
    ]
    return json.dumps({"@context": _CONTEXT, "@graph": graph}, indent=2, ensure_ascii=False).encode() + b"\n"


def _run(pack: Pack, report: Report, job: str, ended: str) -> dict[str, Any]:
    began = datetime.fromtimestamp(report.began, timezone.utc).isoformat(timespec="seconds")
    failed = {} if report.ok else {"error": report.cause or "it was stopped"}
    return {
        "@id": _RUN,
        "@type": "CreateAction",
        "name": f"fedsag simulator, job {pack.job}",
        "description": _told(pack),
        "instrument": _ref(_FEDSAG),
        "object": [_ref(job), *(_ref(each["@id"]) for each in _parameters(pack))],
        "result": [_ref(REPORT), _ref(DIGESTS)],
        "startTime": began,
        "endTime": ended,
        "actionStatus": _DONE if report.ok else _FAILED,
        **failed,
    }


def _parameters(pack: Pack) -> list[dict[str, Any]]:
    values = {
        "clients": len(pack.settings.clients),
        "seed": pack.settings.seed,
        "threads": pack.settings.threads,
        "workers": pack.settings.workers,
        "set": " ".join(pack.settings.sets),
    }
    return [
        {"@id": f"#{name}", "@type": "PropertyValue", "name": name, "value": value}
        for name, value in values.items()
        if value != ""
    ]


def _file(name: str, pack: Pack, size: int | None) -> dict[str, Any]:
    suffix = f".{name.rpartition('.')[2]}"
    return {
        "@id": quote(name),
        "@type": "File",
        "name": name.rpartition("/")[2],
        **({"description": _MEANINGS[name]} if name in _MEANINGS else {}),
        **({"encodingFormat": _TYPES[suffix]} if suffix in _TYPES else {}),
        **({"contentSize": str(size), "sha256": pack.files[name]} if size is not None else {}),
    }


def _told(pack: Pack) -> str:
    return (
        f"{len(pack.settings.clients)} clients, {pack.rounds} rounds, seed {pack.settings.seed}; the run {pack.status}."
    )


def _ref(name: str) -> dict[str, str]:
    return {"@id": name}
