"""In what runs differ, and by which names this is told."""

from fedsag_cli.report import Report, differing


def report(**settings):
    return Report(settings=settings)


def test_only_settings_that_differ_are_told():
    made = [report(**{"s.conf lr": 0.1, "s.conf seed": 1}), report(**{"s.conf lr": 0.2, "s.conf seed": 1}), report()]

    assert differing.settings(made) == {"s.conf lr": [0.1, 0.2, None]}  # the last is of a version that told none
    made[2].settings["s.conf lr"] = 0.2
    assert differing.settings(made[1:]) == {"s.conf seed": [1, None]}


def test_a_yes_is_not_the_number_one():
    made = [report(**{"s.conf fair": True}), report(**{"s.conf fair": 1})]

    assert differing.settings(made) == {"s.conf fair": [True, 1]}


def test_how_a_run_was_started_is_told_only_in_a_whole_comparison():
    made = [
        Report(seed=1, slots=1, launcher="fork", sites=["a"]),
        Report(seed=2, slots=2, launcher="spawn", sites=["a"]),
    ]

    told = {"seed": [1, 2], "clients at a time": [1, 2], "launcher": ["fork", "spawn"]}
    assert (differing.settings(made), differing.settings(made, whole=False)) == (told, {"seed": [1, 2]})


def test_what_users_changed_most_often_comes_first():
    first, second = Report(changed={"s.conf lr": 1, "s.conf n": 1}), Report(changed={"s.conf n": 1})

    names = ["clients", "s.conf x", "s.conf lr", "job", "s.conf n"]
    assert differing.by_hand_first(names, [first, second]) == ["job", "s.conf n", "s.conf lr", "clients", "s.conf x"]


def test_of_command_lines_only_the_options_are_told_that_are_not_in_all_of_them():
    assert differing.without_common_options(["-x 1 --lr 0.1 --n 2", "-x 1 --n 2"]) == ["--lr 0.1", None]
    assert differing.without_common_options(["a.b.Net", "a.b.Other"]) == ["a.b.Net", "a.b.Other"]
    assert differing.without_common_options(["--a 1 --b 2", "--b 2 --a 1"]) == ["--a 1 --b 2", "--b 2 --a 1"]
    assert differing.without_common_options([1, "-x"]) == [1, "-x"]


def test_a_setting_is_called_by_as_much_of_its_end_as_is_its_own():
    names = [
        "server.conf workflows[0].args.lr", "client.conf executors[0].args.lr", "server.conf num_rounds",
        "server.conf components[3].id", "version of torch", "server.conf x", "client.conf x",
    ]  # fmt: skip

    assert differing.short_names(names) == {
        "server.conf components[3].id": "components[3].id",
        "version of torch": "version of torch",
        "server.conf x": "server.conf x",
        "client.conf x": "client.conf x",
        "server.conf workflows[0].args.lr": "workflows[0].args.lr",
        "client.conf executors[0].args.lr": "executors[0].args.lr",
        "server.conf num_rounds": "num_rounds",
    }
