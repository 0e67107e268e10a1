"""Plans of runs, for tests that need one and no job."""

from typing import Any

from fedsag_cli.plan import Plan, ServerPlan


def plan(**settings: Any) -> Plan:
    """That of a run without sites and components, but for what is given."""
    server = ServerPlan(workflows=[], components=[], task_data_filters=[], task_result_filters=[])
    nothing: dict[str, Any] = {"job": "j", "seed": 5, "slots": 1, "threads": 1, "launcher": "fork", "preload": []}
    return Plan(**{**nothing, "server": server, "names": [], "sites": [], **settings})
