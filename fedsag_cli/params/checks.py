"""The checks of an update: its keys, shapes and kinds of number must be those of the sent model, its numbers finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsag_cli.errors import TensorError
from fedsag_cli.model import FLModel, ParamsType
from fedsag_cli.params import arithmetic
from fedsag_cli.params.encoding import is_payload
from fedsag_cli.params.keys import unknown_keys
from fedsag_cli.params.values import dtype_name, kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a workflow accepts in an update.

    `allow_non_finite`: NaN and infinity. `allow_unknown_keys`: keys that the model does not have; they are left out.
    `ignores`: whether params of this name are not used anyway; if they are unknown, they are left out.
    """

    allow_non_finite: bool = False
    allow_unknown_keys: bool = False
    ignores: Callable[[str], bool] | None = None

    def uses(self, name: str) -> bool:
        return self.ignores is None or not self.ignores(name)


STRICT = Rules()


def check(
    update: FLModel, sent: Mapping[str, Any], rules: Rules = STRICT, *, more_keys: Sequence[str] = ()
) -> tuple[FLModel, Sequence[str]]:
    """The part of `update` that the `sent` params have, and the keys that `allow_unknown_keys` left out.

    NaN and infinity are accepted in elements that are not finite in the sent value. If no params were sent, any key is
    accepted. `more_keys`: what a client had to leave out of a difference. Raises TensorError naming the first key that
    does not fit, and the reason; or if the number of steps is not a finite number of at least 0. Bytes and texts fit
    nowhere: nothing can be calculated with them.
    """
    update.num_steps  # noqa: B018  it raises
    params, is_diff = update.params or {}, update.params_type is ParamsType.DIFF
    unknown = [name for name in (*params, *more_keys) if name not in sent and rules.uses(name)] if sent else []
    if unknown and not rules.allow_unknown_keys:
        raise unknown_keys(unknown, sent)
    if sent and not params.keys() <= sent.keys():
        params = {name: value for name, value in params.items() if name in sent}
        update = replace(update, params=params)
    for name, value in params.items():
        if is_payload(value) or is_payload(sent.get(name)):
            if rules.uses(name):
                check_is_numeric(name, value)
                check_is_numeric(name, sent.get(name))
            continue
        is_finite = arithmetic.is_all_finite(value)
        if sent:
            _check_fits(name, value, sent[name], is_diff=is_diff, is_used=rules.uses(name), is_finite=is_finite)
        if is_finite or rules.allow_non_finite:
            continue
        if count := arithmetic.count_not_finite(value, sent.get(name), is_diff=is_diff):
            raise TensorError(f"params: {name!r} has {count} numbers that are NaN or infinite")
    return update, unknown


def check_passed_on(update: FLModel, sent: Mapping[str, Any], rules: Rules = STRICT) -> FLModel:
    """The update of a workflow that calculates nothing, so that bytes and texts fit where such were sent, or nothing.

    Numbers are checked as in `check`. Raises TensorError.
    """
    params = update.params or {}
    if sent and (unknown := [name for name in params if name not in sent]):
        raise unknown_keys(unknown, sent)
    payload = {name for name, value in params.items() if is_payload(value) and is_payload(sent.get(name, value))}
    numbers = {name: value for name, value in params.items() if name not in payload}
    check(replace(update, params=numbers), {name: value for name, value in sent.items() if name not in payload}, rules)
    return update


def has_payload(params: Mapping[str, Any] | None) -> bool:
    """Whether bytes and texts may be in the updates of a model with these params: some are there, or no params yet."""
    return not params or any(map(is_payload, params.values()))


def check_is_numeric(name: str, value: Any) -> None:
    """Raises TensorError if `value` is bytes or a text, with which nothing can be calculated."""
    if is_payload(value):
        raise TensorError(
            f"params: {name!r} is {'bytes' if isinstance(value, bytes) else 'a text'}",
            hint="only an aggregator that has its own check() takes bytes and texts; this one calculates with numbers",
        )


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers: a filter may have made others. Raises TensorError naming one that is no number."""
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: torch's, for many numbers
            raise TensorError(f"metrics: {name!r} is a {type(value).__name__}, not a number") from None
    return numbers


def _check_fits(name: str, value: Any, sent: Any, *, is_diff: bool, is_used: bool, is_finite: bool) -> None:
    got, want = list(getattr(value, "shape", ())), list(getattr(sent, "shape", ()))
    if got != want:
        raise TensorError(f"params: {name!r} has shape {got}, the model that was sent has {want}")
    _check_kind(name, value, sent, is_diff=is_diff)
    if is_diff and is_used and not is_finite and (count := arithmetic.count_lost(value, sent)):
        raise TensorError(
            f"params: {name!r} has {count} numbers that were NaN or infinite in the model that was sent and changed: "
            "a difference cannot tell to what",
            hint='set params_transfer_type to "FULL"',
        )
    if not is_diff and is_used and (count := arithmetic.count_beyond(value, sent)):
        raise TensorError(
            f"params: {name!r} is {dtype_name(value)} and has {count} numbers beyond the range of {dtype_name(sent)}, "
            "which the model that was sent has"
        )


def _check_kind(name: str, value: Any, sent: Any, *, is_diff: bool) -> None:
    got, want = kind(value), kind(sent)
    if is_diff and want == "bool":
        want = "integer"  # a difference of bools is -1, 0 or 1
    if got != want:
        types = f"{dtype_name(value)}, the model that was sent has {dtype_name(sent)}"
        raise TensorError(f"params: {name!r} is {types}: {got} numbers for {want} ones")
