"""meta.conf: a job's name, and which app goes to which site."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsag_cli.errors import Gathering, nearest
from fedsag_cli.job.section import Section
from fedsag_cli.workspace import SERVER

ALL = "@ALL"
_OF_A_DEPLOYMENT = "for a deployment with NVFLARE; the simulator does not use it"
KEYS: Mapping[str, str] = {
    "name": "name of the job",
    "min_clients": "number of clients that a deployment needs to start the job; "
    "the simulator runs with the clients it is given",
    "mandatory_clients": "clients that a deployment needs to start the job; the simulator does not ask for them",
    "deploy_map": "sites that an app goes to: server, names of clients, or @ALL",
    **dict.fromkeys(["resource_spec", "launcher_spec", "scope", "stats_pool_config", "study"], _OF_A_DEPLOYMENT),
    "custom_props": "values of your own; seed is the seed of runs that are given no other",
    "job_folder_name": "name of the job's folder",
    "format_version": "version of this file's format",
}
"""The keys of the file, with their meanings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The values of meta.conf. `deploy_map` maps an app's name to its sites; ("@ALL",) means all sites.

    `seed`: of runs that are given no other, from 0 to 2**63 - 1. It is in `custom_props`, where NVFLARE's recipes can
    set it too.
    """

    name: str
    min_clients: int = 1
    mandatory_clients: Sequence[str] = ()
    seed: int | None = None
    deploy_map: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, conf: Section, *, name: str) -> Meta:
        """`name`: the name of the job if the file has none. Raises JobError."""
        with Gathering() as found:
            for key in conf.values:
                # unknown keys are allowed, but a mistyped known key is an error
                if key not in KEYS and difflib.get_close_matches(key, KEYS, n=1, cutoff=0.85):
                    found.add(conf.error(key, ": there is no such key", hint=nearest(key, KEYS)))
            deploy_map = found.attempt(_deploy_map, conf) or {}
            mandatory = found.attempt(conf.texts, "mandatory_clients", []) or []
            named = {site for sites in deploy_map.values() for site in sites}
            for site in mandatory if named else ():
                if ALL not in named and site not in named:
                    problem = f"names {site!r}, which is not in deploy_map"
                    found.add(conf.wrong("mandatory_clients", problem, hint=nearest(site, named)))
            named_so = found.attempt(conf.text, "name", name)
            min_clients = found.attempt(conf.number, "min_clients", 1, least=1)
            seed = found.attempt(_seed, conf)
        return cls(
            name=named_so or name,
            min_clients=min_clients or 1,
            mandatory_clients=tuple(mandatory),
            seed=seed,
            deploy_map=deploy_map,
        )


def _seed(conf: Section) -> int | None:
    props = conf.values.get("custom_props")
    if not isinstance(props, Mapping) or props.get("seed") is None:
        return None
    own = conf.section("custom_props")
    if (seed := own.number("seed")) >= 1 << 63:
        raise own.wrong("seed", f"must be below 2**63, not {seed}")
    return seed


def _deploy_map(conf: Section) -> dict[str, tuple[str, ...]]:
    apps = conf.section("deploy_map")
    with Gathering() as found:
        deploy_map = {app: found.attempt(_sites, apps, app) or () for app in apps.values}
    if not any(deploy_map.values()):
        raise conf.wrong("deploy_map", "is empty", hint='write app = ["@ALL"]')
    _check(apps, deploy_map)
    return deploy_map


def _sites(apps: Section, app: str) -> tuple[str, ...]:
    sites: Any = apps.values[app]
    if isinstance(sites, Mapping):
        inner = apps.section(app)
        inner.expect(["sites", "targets"])
        sites = inner.texts("sites" if "sites" in inner else "targets")
    if not isinstance(sites, list) or not all(isinstance(site, str) and site for site in sites):
        raise apps.wrong(app, f"must be a list of sites, not {sites!r}")
    return tuple(ALL if site.upper() == ALL else site for site in sites)


def _check(apps: Section, deploy_map: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for app, sites in deploy_map.items():
        for site in sites:
            if site in seen:
                raise apps.wrong(app, f"names {site!r}, which {seen[site]} names too")
            seen[site] = app
    if ALL in seen and len(seen) > 1:
        raise apps.error("", f": {ALL} means every site: no other site can be named")
    if ALL not in seen and SERVER not in seen:
        raise apps.error("", f" must name an app for {SERVER!r}", hint=f'write app_server = ["{SERVER}"]')
