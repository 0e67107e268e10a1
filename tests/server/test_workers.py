"""Which worker works for which client."""

from fedsag_cli.server.workers import Workers


def ready(workers, *clients):
    """The names of new workers of these clients, which have connected and asked for a task."""
    names = []
    for client in clients:
        name, is_new = workers.engage(client)
        assert is_new
        workers.connected(name)
        assert workers.asked(name)
        names.append(name)
    return names


def test_a_worker_is_started_for_each_client_while_none_is_free():
    workers = Workers()

    assert [workers.engage(client) for client in "ab"] == [("worker:1", True), ("worker:2", True)]
    assert [workers.of(client) for client in "abc"] == ["worker:1", "worker:2", ""]
    assert [workers.client_of(f"worker:{number}") for number in (1, 2, 3)] == ["a", "b", ""]


def test_the_worker_that_was_free_last_works_for_the_next_client():
    workers = Workers()
    ready(workers, "a", "b", "c")
    workers.release("b")
    workers.release("a")

    assert workers.client_of("worker:1") == "a"
    assert workers.of("a") == ""
    assert [workers.engage(client) for client in "de"] == [("worker:1", False), ("worker:2", False)]
    assert workers.client_of("worker:1") == "d"
    assert workers.engage("a") == ("worker:4", True)


def test_a_worker_connects_once_and_only_if_it_was_wanted():
    workers = Workers()
    workers.engage("a")

    assert workers.admits("worker:1")
    assert not workers.admits("worker:2")
    workers.connected("worker:1")
    assert not workers.admits("worker:1")


def test_one_that_ended_gets_no_client_and_the_next_new_ones_have_the_smallest_free_names():
    workers = Workers()
    ready(workers, "a", "b", "c")
    workers.release("b")
    workers.ended("worker:2")
    workers.ended("worker:1")

    assert [workers.of(client) for client in "abc"] == ["", "", "worker:3"]
    assert not workers.admits("worker:1")
    assert [workers.engage(client) for client in "xyz"] == [("worker:1", True), ("worker:2", True), ("worker:4", True)]
    assert workers.admits("worker:1")


def test_one_that_closed_its_channel_while_it_waited_gets_no_client_and_keeps_its_name_until_it_ends():
    workers = Workers()
    ready(workers, "a")
    workers.release("a")
    workers.closed("worker:1")

    assert workers.engage("b") == ("worker:2", True)
    workers.ended("worker:1")
    assert workers.of("b") == "worker:2"
    assert workers.engage("c") == ("worker:1", True)


def test_one_that_closed_its_channel_at_work_is_replaced_for_its_client_and_its_end_is_not_that_of_the_next_one():
    workers = Workers()
    ready(workers, "a")
    workers.closed("worker:1")
    assert workers.of("a") == "worker:1"

    assert workers.engage("a") == ("worker:2", True)
    assert workers.client_of("worker:1") == ""
    workers.ended("worker:1")
    assert workers.of("a") == "worker:2"


def test_a_task_whose_worker_ends_before_it_asks_for_it_is_given_back():
    workers = Workers()
    ready(workers, "a")
    workers.answered("worker:1")
    workers.release("a")
    assert workers.engage("b") == ("worker:1", False)

    assert workers.closed("worker:1") == "b"
    assert workers.of("b") == ""
    assert workers.at("worker:1") == "a"
    assert workers.closed("worker:1") == ""
    assert workers.engage("b") == ("worker:2", True)
    assert workers.closed("worker:2") == ""  # it has not joined: its end is a failure
    assert workers.of("b") == "worker:2"


def test_a_task_whose_worker_asked_for_it_is_not_given_back():
    workers = Workers()
    ready(workers, "a")
    workers.answered("worker:1")
    workers.release("a")
    workers.engage("b")

    assert not workers.asked("worker:1")
    assert workers.at("worker:1") == "b"
    assert workers.closed("worker:1") == ""
    assert workers.of("b") == "worker:1"


def test_one_that_was_ready_too_late_for_its_client_waits_in_the_task_of_the_next_one():
    """Before, a task that it had begun was given back when it ended."""
    workers = Workers()
    ready(workers, "a")
    workers.release("a")
    workers.engage("b")

    assert workers.at("worker:1") == "b"
    assert workers.closed("worker:1") == ""


def test_a_client_without_a_worker_and_a_worker_that_is_gone_change_nothing():
    workers = Workers()
    ready(workers, "a")
    workers.release("b")
    workers.ended("worker:7")

    assert workers.of("a") == "worker:1"
    assert workers.engage("b") == ("worker:2", True)


def test_a_worker_that_is_stopped_before_it_connected_is_not_let_in():
    workers = Workers()
    name, _ = workers.engage("a")
    assert workers.admits(name)

    assert workers.give_back("a") == name

    assert not workers.admits(name)
    assert workers.engaged == []
