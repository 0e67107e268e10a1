"""NVFLARE's commands that fedsag does not have: each needs a deployment, to which a job is exported."""

from __future__ import annotations

from collections.abc import Sequence

from fedsag_cli.errors import UsageError

_COMMANDS = {
    "poc", "provision", "preflight", "preflight-check", "preflight_check", "dashboard", "authz-preview",
    "authz_preview", "recipe", "cert", "package", "deploy", "system", "study", "agent",
}  # fmt: skip
_OF_JOB = {
    "submit", "list", "meta", "abort", "clone", "download", "delete", "stats", "logs", "log", "log-config", "monitor",
    "wait",
}  # fmt: skip
_OF_CONFIG = {"add", "use", "inspect", "list", "remove"}
_FLAGS_OF_CONFIG = {"-d", "--startup_kit_dir", "-pw", "--poc_workspace_dir"}


def check(words: Sequence[str]) -> None:
    """Raises UsageError if the words of a command line are a command that only NVFLARE has."""
    command = _only_nvflares(words)
    if command:
        raise UsageError(
            f"fedsag has no {command!r}, which belongs to a deployment of NVFLARE",
            hint=f"`fedsag job export JOB OUT` writes the job for NVFLARE; then `nvflare {command}`",
        )


def _only_nvflares(words: Sequence[str]) -> str:
    first, second = (*words, "", "")[:2]
    if first in _COMMANDS:
        return first
    if (first == "job" and second in _OF_JOB) or (first == "config" and second in _OF_CONFIG):
        return f"{first} {second}"
    flags = [word for word in words if word.partition("=")[0] in _FLAGS_OF_CONFIG]
    return f"{first} {flags[0]}" if first == "config" and flags else ""
