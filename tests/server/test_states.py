"""What sites keep, without clients: which version counts, and where it is."""

import pytest
from fakes import open_descriptors

from fedsag_cli.params.tensor_file import TensorFile
from fedsag_cli.server import spool
from fedsag_cli.server.states import States
from fedsag_cli.workflows.state_files import StateFiles


@pytest.fixture
def states(tmp_path):
    """Nothing is open when they are closed."""
    before = open_descriptors()
    made = States(tmp_path)
    made.files = StateFiles(tmp_path)
    yield made
    made.close()
    assert open_descriptors() == before


def file_of(**kept):
    return TensorFile.write({}, trees={"flare.state": kept, "filters": {}})


def answers(states, site, task_id, **kept):
    """An answer comes, and waits for its turn; without `kept` nothing has changed."""
    state = states[site]
    version = state.arrived(site, task_id, file_of(**kept) if kept else None)
    state.keep(task_id, version)
    state.check(task_id)


def given(states, site):
    """What comes with the next task; None if the process has it."""
    if (file := states[site].missing(site)) is None:
        return None
    with file:
        return file.tree("flare.state")


def ends_round(states):
    """The sites whose state was written."""
    changed = states.changed()
    states.files.write(changed)
    found = list(changed)
    states.saved()
    return found


def whole_task(states, site, task_id, **kept):
    states[site].started(site)
    came = given(states, site)
    answers(states, site, task_id, **kept)
    states[site].accept(task_id)
    states[site].end(task_id)
    return came


def test_what_was_saved_is_read_from_disk_for_a_new_process_and_is_open_no_more(states):
    before = open_descriptors()
    assert whole_task(states, "a", 1, n=1) is None
    assert ends_round(states) == ["a"]
    assert open_descriptors() == before

    assert whole_task(states, "a", 2) == {"n": 1}
    assert whole_task(states, "b", 3, n=3) is None

    assert ends_round(states) == ["b"]
    assert ends_round(states) == []
    assert whole_task(states, "a", 4) == {"n": 1}


def test_an_answer_that_is_rejected_after_its_round_was_saved_gives_back_what_counted_before(states):
    whole_task(states, "a", 1, n=1)
    ends_round(states)
    given(states, "a")
    answers(states, "a", 2, n=2)
    states["a"].accept(2)
    assert ends_round(states) == ["a"]  # while the task is open

    states["a"].reject(2)
    states["a"].end(2)

    assert ends_round(states) == ["a"]
    assert given(states, "a") == {"n": 1}
    assert whole_task(states, "a", 3) == {"n": 1}


def test_a_first_answer_that_is_rejected_after_its_round_was_saved_leaves_nothing(states):
    states["a"].started("a")
    assert given(states, "a") is None
    answers(states, "a", 1, n=1)
    states["a"].accept(1)
    assert ends_round(states) == ["a"]

    states["a"].reject(1)
    states["a"].end(1)

    assert ends_round(states) == ["a"]
    assert given(states, "a") == {}
    assert whole_task(states, "a", 2, n=2) is None
    assert ends_round(states) == ["a"]
    with states.files.read("a", states.scratch) as file:
        assert file.tree("flare.state") == {"n": 2}


def test_of_many_that_were_not_saved_only_some_have_a_descriptor_and_all_are_whole(states, monkeypatch):
    monkeypatch.setattr(spool, "_MOST_OPEN", 3)
    before = len(open_descriptors())
    for number in range(20):
        whole_task(states, f"site-{number}", number + 1, n=number)

    assert len(open_descriptors()) == before + 3 + 1
    assert [whole_task(states, f"site-{number}", 30 + number) for number in range(20)] == [
        {"n": number} for number in range(20)
    ]
    assert len(ends_round(states)) == 20
    assert len(open_descriptors()) == before
    assert [whole_task(states, f"site-{number}", 60 + number) for number in range(20)] == [
        {"n": number} for number in range(20)
    ]


def test_a_continued_run_has_what_its_files_have(tmp_path, states):
    whole_task(states, "a", 1, n=1)
    ends_round(states)
    of_site = {"a": "states-000000.safetensors"}

    again = States(tmp_path)
    again.files = StateFiles(tmp_path)
    again.files.restore(of_site)

    assert whole_task(again, "a", 1) == {"n": 1}
    assert whole_task(again, "b", 2) is None
    assert ends_round(again) == []
    again.close()
