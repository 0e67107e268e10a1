"""A pack: one file with all that is needed to make a run again on another machine, and to see whether it is the same.

pack.json                   what this module declares: the settings of the run, and the SHA-256 of every other file
ro-crate-metadata.json      the same facts for programs that read RO-Crates (https://w3id.org/ro/crate/1.1)
job/<folder>/…              the files of the job that the run used
plan.json  report.json      of the run, without the paths of the machine it ran on
digests.jsonl               the digest of each model that travelled, and of each of its tensors, in the order of the run

A pack has no model, no log and no data.
"""

from __future__ import annotations

import msgspec

FORMAT = 1
"""The format of pack.json. A version of fedsag reads packs of its own format and of older ones."""

PACK, CRATE = "pack.json", "ro-crate-metadata.json"
JOB, PLAN, REPORT, DIGESTS = "job", "plan.json", "report.json", "digests.jsonl"
"""The names in a pack."""

SUFFIX = ".fedsag.zip"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `fedsag simulator` that decide the result, or how the run goes.

    `slots`, `threads`: those of -t and --torch-threads. `sets`: the words of --set.
    """

    clients: list[str]
    seed: int
    slots: int
    threads: int
    launcher: str
    gpus: str | None = None
    workers: bool = False
    strict: bool = False
    waits_for_all: bool = False
    sets: list[str] = []


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of pack.json.

    `plan`: the plan's identity. `record`: the digest to which the lines of the run's record add up; empty without one.
    `folder`: the name of the job's folder. `outside`: the SHA-256 of each file outside the job that the clients'
    commands name, by absolute path. `environment`: the names of the environment variables in the job's configs, whose
    values are not in the pack. `status`, `rounds`, `digest`: how the run ended, its whole rounds, and the SHA-256
    of its final model. `models`: those that the run wrote, which are not in the pack, with their sizes in bytes.
    `files`: the SHA-256 of each other file of the pack.
    """

    format: int = FORMAT
    job: str
    folder: str
    plan: str
    record: str = ""
    settings: Settings
    versions: dict[str, str]
    outside: dict[str, str] = {}
    environment: list[str] = []
    status: str
    rounds: int
    digest: str = ""
    models: dict[str, int] = {}
    files: dict[str, str] = {}
