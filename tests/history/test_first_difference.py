"""Two runs are compared model by model: the first round, site and tensor that are not the same."""

import msgspec
import pytest

from fedsag_cli import events
from fedsag_cli.cli.runs_compared import said_of
from fedsag_cli.errors import WorkspaceError
from fedsag_cli.history.first_difference import Compared, Difference, compare

NAMES = ["conv.weight", "conv.bias", "fc.weight"]


def sent(round_num, prints, *, digest="", task="train"):
    tensors = "".join(f"{each:08x}" for each in prints)
    digest = digest or tensors.rjust(32, "0")[-32:]
    return events.ModelSent(
        workflow="w", task=task, round_num=round_num, size=1, digest=digest, tensors=tensors, names=NAMES
    )


def answer(site, round_num, prints, *, names=(), digest="", task="train"):
    tensors = "".join(f"{each:08x}" for each in prints)
    digest = digest or tensors.rjust(32, "0")[-32:]
    return events.ReplyAccepted(
        site=site, workflow="w", task=task, round_num=round_num, metrics={}, num_steps=1.0, size=1, work_s=0.0,
        digest=digest, tensors=tensors, names=list(names),
    )  # fmt: skip


def begins(round_num):
    return events.RoundStarted(workflow="w", round_num=round_num, first_round=0, num_rounds=3, sites=["site-1"])


def started():
    return events.RunStarted(job="j", workspace="w", sites=[], slots=1, threads=1, seed=1, launcher="fork", versions={})


def three_rounds(change=None, *, sites=("site-1", "site-2", "site-10")):
    """`change`: of one model, its prints; by "sent" or a site, and the round."""
    told = []
    for round_num in range(3):
        told += [begins(round_num), sent(round_num, (change or {}).get(("sent", round_num), [1, 2, round_num]))]
        told += [answer(site, round_num, (change or {}).get((site, round_num), [3, 4, round_num])) for site in sites]
    return told


@pytest.fixture
def written(tmp_path):
    def write(name, told):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_bytes(b"".join(map(events.to_line, told)))
        return tmp_path / name

    return write


def difference(written, told, other):
    return compare(written("a", told), written("b", other))


def test_runs_that_are_the_same_are_identical(written):
    assert difference(written, three_rounds(), three_rounds()) == Compared(difference=None, models=12, rounds=3)


def test_the_first_answer_that_differs_is_named_with_its_first_tensor(written):
    change = {("site-10", 1): [3, 9, 9], ("sent", 2): [7, 7, 7], ("site-1", 2): [7, 7, 7]}

    found = difference(written, three_rounds(), three_rounds(change))

    assert found.difference == Difference(
        workflow="w", round_num=1, task="train", site="site-10", tensor="conv.bias", num_tensors=2
    )
    assert (found.models, found.rounds) == (9, 3)


def test_of_several_sites_the_first_by_number_is_named(written):
    change = {("site-10", 0): [9, 4, 0], ("site-2", 0): [3, 4, 9]}

    found = difference(written, three_rounds(), three_rounds(change)).difference

    assert (found.site, found.tensor, found.num_tensors) == ("site-2", "fc.weight", 1)


def test_a_model_that_the_server_sent_comes_before_the_answers_to_it(written):
    change = {("sent", 2): [1, 2, 9], ("site-1", 2): [9, 9, 9]}

    found = difference(written, three_rounds(), three_rounds(change)).difference

    assert (found.round_num, found.site, found.tensor) == (2, "", "fc.weight")


def test_answers_with_tensors_of_their_own_are_compared_by_name(written):
    told = [begins(0), sent(0, [1, 2, 3]), answer("site-1", 0, [5, 6], names=["fc.weight", "conv.weight"])]
    other = [begins(0), sent(0, [1, 2, 3]), answer("site-1", 0, [6, 5], names=["conv.weight", "extra"])]

    found = difference(written, told, other).difference

    assert (found.tensor, found.num_tensors) == ("fc.weight", 2)  # conv.weight has the same print in both


def test_a_site_that_answered_in_one_run_only_is_where_they_part(written):
    found = difference(written, three_rounds(), three_rounds(sites=("site-1", "site-10"))).difference

    assert (found.round_num, found.site, found.only_in) == (0, "site-2", 0)


def test_a_run_that_goes_on_is_identical_as_far_as_both_go(written):
    assert difference(written, three_rounds()[:-5], three_rounds()) == Compared(
        difference=None, models=8, rounds=2, longer=1
    )


def test_of_a_round_that_a_resumed_run_did_again_the_last_time_counts(written):
    resumed = [*three_rounds()[:5], begins(1), sent(1, [8, 8, 8]), answer("site-1", 1, [8, 8, 8]), *three_rounds()[5:]]

    assert difference(written, three_rounds(), resumed).difference is None


def test_several_models_of_one_task_in_a_round_are_compared_in_their_order(written):
    told = [begins(0), sent(0, [1, 1, 1]), sent(0, [2, 2, 2]), answer("site-1", 0, [3, 3, 3])]
    other = [begins(0), sent(0, [1, 1, 1]), sent(0, [2, 9, 2]), answer("site-1", 0, [3, 3, 3])]

    found = difference(written, told, other).difference

    assert (found.site, found.tensor) == ("", "conv.bias")


def test_runs_of_a_version_without_digests_have_no_model_to_compare(written):
    without = {"digest": "", "tensors": ""}
    old = [begins(0), msgspec.structs.replace(answer("site-1", 0, []), **without)]

    assert difference(written, old, three_rounds()) == Compared(difference=None, models=0, rounds=0)


def test_events_that_cannot_be_read_are_an_error_that_names_the_file(written, tmp_path):
    with pytest.raises(WorkspaceError, match=r"gone/events.jsonl cannot be read"):
        compare(written("a", three_rounds()), tmp_path / "gone")


def test_a_run_that_was_stopped_within_a_round_is_identical_as_far_as_it_goes(written):
    found = difference(written, three_rounds()[:-1], three_rounds())

    assert found == Compared(difference=None, models=11, rounds=3, longer=1)


def test_an_answer_that_a_whole_run_lacks_at_its_very_end_is_where_they_part(written):
    done = events.WorkflowFinished(digest="d", seeded_themselves=[])

    found = difference(written, [*three_rounds()[:-1], done], [*three_rounds(), done]).difference

    assert (found.round_num, found.site, found.only_in) == (2, "site-10", 1)


def test_what_a_killed_part_did_in_a_round_that_was_done_again_does_not_count(written):
    again = [*three_rounds()[:5], started(), *three_rounds(sites=["site-1"])]

    assert difference(written, three_rounds(sites=["site-1"]), again).difference is None


def test_a_model_that_a_resumed_run_sends_again_is_the_same_model(written):
    late = [begins(0), sent(0, [1, 1, 1]), answer("site-1", 0, [2, 2, 2]), begins(1), answer("site-2", 0, [3, 3, 3])]
    resumed = [*late[:-1], started(), sent(0, [1, 1, 1]), late[-1]]

    assert difference(written, late, resumed) == Compared(difference=None, models=3, rounds=1)


def test_runs_of_other_workflows_have_no_model_in_common(written):
    other = [msgspec.structs.replace(each, workflow="v") for each in three_rounds()]

    found = difference(written, three_rounds(), other)

    assert (found.difference, found.models) == (None, 0)
    assert "no model in common" in " ".join(said_of(found, ["1", "2"], ["d", "e"]))
