"""Arguments declared once: their types, rules and meanings, and what is told of a wrong value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pytest

from fedsag_cli.arguments import Above, Argument, Form, Least, Most, Needs, OneOf, checked, problems
from fedsag_cli.errors import JobError

if TYPE_CHECKING:
    from nowhere_at_all import Nothing

Rounds = Annotated[int, Least(1), "number of rounds"]


class Part:
    @checked
    def __init__(
        self,
        rounds: Rounds = 5,
        mu: Annotated[float | None, Least(0), "the coefficient"] = None,
        how: Annotated[str, OneOf(["sum", "mean"])] = "mean",
        stop: Annotated[str | None, Form(r"\w+ > \d+", "a metric, >, and a number", "accuracy > 80")] = None,
        patience: Annotated[int | None, Least(1), Needs("stop")] = None,
        share: Annotated[float, Above(0), Most(1)] = 0.5,
        verbose: bool = False,
        anything: object = None,
    ) -> None:
        self.rounds = rounds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rounds": 0}, "Part: rounds must be a number from 1 on, not 0"),
        ({"share": 0}, "Part: share must be a number above 0, not 0"),
        ({"share": 1e30}, "Part: share must be a number below 2**53, not 1e+30"),
        ({"share": 1.5}, "Part: share must be a number up to 1, not 1.5"),
        ({"share": float("nan")}, "Part: share must be a number above 0, not nan"),
        ({"rounds": 2.0}, "Part: rounds must be a whole number, not 2.0"),
        ({"rounds": True}, "Part: rounds must be a whole number, not True"),
        ({"rounds": None}, "Part: rounds must be a whole number, not None"),
        ({"rounds": "5"}, "Part: rounds must be a whole number, not '5'"),
        ({"rounds": 2**53}, "Part: rounds must be a number below 2**53, not 9007199254740992"),
        ({"mu": -0.1}, "Part: mu must be a number from 0 on, not -0.1"),
        ({"mu": float("inf")}, "Part: mu must be a number below 2**53, not inf"),
        ({"mu": float("nan")}, "Part: mu must be a number from 0 on, not nan"),
        ({"how": "max"}, "Part: how must be 'sum' or 'mean', not 'max'"),
        ({"how": "maen"}, "Part: how must be 'sum' or 'mean' (did you mean 'mean'?), not 'maen'"),
        ({"stop": "nonsense"}, "Part: stop must be a metric, >, and a number, such as 'accuracy > 80', not 'nonsense'"),
        ({"patience": 3}, "Part: patience needs stop, which is not given"),
        ({"verbose": 1}, "Part: verbose must be true or false, not 1"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_class_the_argument_and_what_it_must_be(given, said):
    with pytest.raises(JobError) as error:
        Part(**given)

    assert error.value.message == said


@pytest.mark.parametrize(
    "given",
    [{}, {"rounds": 1}, {"mu": 0}, {"mu": None}, {"how": "sum"}, {"patience": 1, "stop": "a > 1"}, {"anything": 5}],
)
def test_a_value_that_keeps_the_rules_is_taken(given):
    assert Part(**given).rounds == given.get("rounds", 5)


def test_arguments_by_position_are_checked_too():
    with pytest.raises(JobError, match="rounds must be"):
        Part(0)


def test_what_an_argument_needs_may_be_a_component_that_is_named_by_its_id():
    """Before, only the argument itself counted, which a job cannot give."""
    needs = [Argument(name="every", kind="int", rules=(Needs("tracker"),)), Argument(name="view", rules=(Needs("tb"),))]

    assert problems(needs, {"every": 1, "tracker_id": "tracker"}) == {}
    assert problems(needs, {"every": 1, "tracker_id": ""}) == {"every": "needs tracker, which is not given"}
    assert problems(needs, {"view_id": "view"}) == {"view": "needs tb, which is not given"}
    assert problems(needs, {"view_id": "view", "tb_id": "tb"}) == {}


def test_an_argument_that_is_not_given_has_no_problem():
    assert problems([Argument(name="rounds", kind="int", rules=(Least(1),))], {"other": 0}) == {}


def test_names_that_only_type_checkers_import_are_not_checked_and_the_others_are():
    class Odd:
        @checked
        def __init__(self, rounds: Rounds = 5, other: Nothing = None) -> None:
            self.rounds = rounds

    assert Odd(other="x").rounds == 5
    with pytest.raises(JobError, match="Odd: rounds must be"):
        Odd(rounds=0)


def test_of_any_number_of_arguments_none_is_checked():
    class Open:
        @checked
        def __init__(self, rounds: Rounds, /, *sites: str, **weights: float) -> None:
            self.given = (rounds, sites, weights)

    assert Open(1, "site-1", "site-2", a=0.5).given == (1, ("site-1", "site-2"), {"a": 0.5})
    with pytest.raises(JobError, match="Open: rounds must be"):
        Open(0)


def test_none_is_taken_where_it_is_the_default():
    class Implicit:
        @checked
        def __init__(self, rounds: Rounds = None, only: None = None) -> None:
            self.given = (rounds, only)

    assert Implicit(None, 3).given == (None, 3)
    with pytest.raises(JobError, match="Implicit: rounds must be a whole number"):
        Implicit("x")
