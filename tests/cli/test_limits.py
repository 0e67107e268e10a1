"""What metrics have to reach at the end of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.cli.limits import OVER, UNDER, check, limits
from fedsag_cli.errors import RunError, UsageError
from fedsag_cli.report import Report, RoundReport


def report(*rounds, final=None):
    """A run in whose rounds this was measured."""
    told = [RoundReport(round_num=number, metrics=metrics, is_whole=True) for number, metrics in enumerate(rounds)]
    return Report(ok=True, exit_code=0, rounds=told, final_metrics=final or {})


def refusal(report, flag, *words):
    with pytest.raises(RunError) as failed:
        check(report, limits(flag, words))
    assert failed.value.exit_code == 4
    assert failed.value.report is report
    return failed.value


def test_a_final_model_that_is_good_enough_passes_also_at_the_limit_itself():
    ran = report({"accuracy": 0.1}, final={"accuracy": 0.8, "loss": 0.5})

    check(ran, limits(UNDER, ["accuracy=0.8", "accuracy=0.7999", "loss=-1"]))
    check(ran, limits(OVER, ["loss=0.5", "loss=1"]))
    check(ran, [])


def test_a_final_model_under_its_limit_fails_though_the_last_round_was_above():
    failed = refusal(report({"accuracy": 0.9}, final={"accuracy": 0.75}), UNDER, "accuracy=0.8")

    assert failed.message == "accuracy of the final model is 0.75, under 0.8 (--fail-under)"


def test_without_a_measured_final_model_the_last_round_decides_and_is_named():
    failed = refusal(report({"accuracy": 0.9}, {"accuracy": 0.75}), UNDER, "accuracy=0.8")

    assert failed.message == "accuracy of the model sent in round 1 is 0.75, under 0.8 (--fail-under)"


def test_a_metric_that_the_last_round_has_not_is_that_of_an_earlier_round():
    failed = refusal(report({"accuracy": 0.5}, {"loss": 1.0}, final={"loss": 0.9}), UNDER, "accuracy=0.8")

    assert "accuracy of the model sent in round 0 is 0.5" in failed.message


def test_a_loss_over_its_limit_fails():
    failed = refusal(report(final={"loss": 0.51}), OVER, "loss=0.5")

    assert failed.message == "loss of the final model is 0.51, over 0.5 (--fail-over)"


def test_values_that_look_alike_are_told_with_all_their_digits():
    failed = refusal(report(final={"accuracy": 0.79999999}), UNDER, "accuracy=0.8")

    assert failed.message == "accuracy of the final model is 0.79999999, under 0.8 (--fail-under)"


@pytest.mark.parametrize("flag", [UNDER, OVER])
def test_a_value_that_is_not_finite_keeps_no_limit(flag):
    failed = refusal(report(final={"loss": None}), flag, "loss=1")

    assert failed.message == f"loss of the final model is not finite ({flag} loss=1)"


def test_every_limit_that_is_not_kept_is_told():
    failed = refusal(report(final={"a": 1.0, "b": 2.0, "c": 9.0}), UNDER, "a=5", "c=5", "b=5")

    assert failed.message == (
        "a of the final model is 1, under 5 (--fail-under); b of the final model is 2, under 5 (--fail-under)"
    )


def test_a_metric_that_was_not_measured_fails_with_the_nearest_that_was():
    failed = refusal(report({"accuracy": 0.9, "loss": 1.0}), UNDER, "acuracy=0.8")

    assert failed.message == "the run has not measured acuracy (--fail-under acuracy=0.8)"
    assert failed.hint == "did you mean 'accuracy'?"


def test_of_a_run_that_measured_nothing_nothing_can_be_said():
    assert refusal(report({}), UNDER, "accuracy=0.8").hint == ""


def test_a_metrics_name_may_hold_an_equals_sign():
    (limit,) = limits(UNDER, ["top=5=0.25"])

    assert (limit.metric, limit.value) == ("top=5", 0.25)


@pytest.mark.parametrize("word", ["", "=", "=0.8", " =1", "accuracy", "0.8"])
def test_a_limit_without_a_name_is_refused(word):
    with pytest.raises(UsageError, match="is not NAME=VALUE"):
        limits(UNDER, [word])


@pytest.mark.parametrize("word", ["a=", "a=high", "a=nan", "a=inf", "a=-inf", "a=0,8", "a=80%"])
def test_a_limit_that_is_no_number_is_refused(word):
    with pytest.raises(UsageError, match=f"--fail-over {word!r}: .* is not a number"):
        limits(OVER, [word])


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_name_with_a_number_is_a_limit(name, value):
    word = f"{name}={value!r}"

    if name.strip():
        (limit,) = limits(UNDER, [word])
        assert (limit.metric, limit.value) == (name.strip(), value)
    else:
        with pytest.raises(UsageError, match="is not NAME=VALUE"):
            limits(UNDER, [word])
