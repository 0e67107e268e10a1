"""The words of --set and --seeds, and the product of them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsag_cli.errors import UsageError
from fedsag_cli.sweep.variations import Setting, columns, product, read_seeds, read_setting


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("lr=0.1", ["0.1"]),
        ("lr=0.1,0.2,1e-3", ["0.1", "0.2", "1e-3"]),
        ("app_config=--lr 0.1 --epochs 1,--lr 0.2", ["--lr 0.1 --epochs 1", "--lr 0.2"]),
        ('app_config="--names a,b",--names c', ["--names a,b", "--names c"]),
        ("layers=[1, 2],[3]", ["[1, 2]", "[3]"]),
        ('layers="[1,2]","[3,4]"', ["[1,2]", "[3,4]"]),
        ("args={a = 1, b = [2, 3]},{a = 4}", ["{a = 1, b = [2, 3]}", "{a = 4}"]),
        ('names=["a,b","c]"],["d"]', ['["a,b","c]"]', '["d"]']),
        ('text="a \\"quoted\\" word",b', ['a "quoted" word', "b"]),
        ('text="",b', ['""', "b"]),
        ("a=b=c,d", ["b=c", "d"]),
    ],
)
def test_commas_separate_values_but_not_within_brackets_braces_and_quotes(word, values):
    assert read_setting(word).values == values


def test_a_key_may_be_removed_in_all_runs():
    assert read_setting("train_timeout-") == Setting(key="train_timeout-", values=())
    assert [each.words for each in product([read_setting("train_timeout-")], [1])] == [("train_timeout-",)]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("lr=", "the value is empty"),
        ("lr=1,,2", "value 2 of 3 is empty"),
        ("lr=1,", "value 2 of 2 is empty"),
        ("lr=1,2,1", "1 is given twice"),
        ("lr", "KEY=VALUE is expected"),
        ("=1", "KEY=VALUE is expected"),
        ("-", "KEY=VALUE is expected"),
        ('lr="1,2', "a quote is not closed"),
        ("lr=[1,2", "a bracket is not closed"),
    ],
)
def test_a_word_that_cannot_be_meant_is_refused_by_its_name(word, says):
    with pytest.raises(UsageError) as refused:
        read_setting(word)

    assert says in refused.value.message
    assert f"--set {word}" in refused.value.message


@given(
    st.lists(st.text(min_size=1).filter(lambda text: text == text.strip() and text != '""'), min_size=1, unique=True)
)
def test_any_texts_in_quotes_are_read_as_they_are(texts):
    quoted = (f'"{text}"' for text in (each.replace("\\", "\\\\").replace('"', '\\"') for each in texts))

    assert read_setting(f"key={','.join(quoted)}").values == texts


@given(st.text())
def test_no_text_is_read_with_anything_but_an_error_for_users(text):
    with contextlib.suppress(UsageError):
        assert read_setting(f"key={text}").values


def test_seeds_are_numbers_and_ranges():
    assert read_seeds("1..3,7") == [1, 2, 3, 7]
    assert read_seeds("5") == [5]


@pytest.mark.parametrize(
    "text", ["", "a", "1..", "3..1", "1,1", "1..3,2", "-1", "9223372036854775808", "1..10001", "1.5"]
)
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match=r"--seeds|runs"):
        read_seeds(text)


def test_every_combination_is_run_with_every_seed_the_last_value_fastest():
    settings = [read_setting("num_rounds=2,3"), read_setting("min_clients=1"), read_setting("server:lr=0.1,0.2")]

    made = product(settings, [7, 8])

    assert [each.name for each in made] == [
        "001-num_rounds=2-lr=0.1-seed=7",
        "002-num_rounds=2-lr=0.1-seed=8",
        "003-num_rounds=2-lr=0.2-seed=7",
        "004-num_rounds=2-lr=0.2-seed=8",
        "005-num_rounds=3-lr=0.1-seed=7",
        "006-num_rounds=3-lr=0.1-seed=8",
        "007-num_rounds=3-lr=0.2-seed=7",
        "008-num_rounds=3-lr=0.2-seed=8",
    ]
    assert made[2].words == ("num_rounds=2", "min_clients=1", "server:lr=0.2")
    assert made[2].chosen == ["2", "0.2"]
    assert columns(settings) == ["num_rounds", "lr"]


def test_keys_that_end_alike_are_called_by_their_whole_paths():
    settings = [read_setting("workflows[0].args.x=1,2"), read_setting("components[1].args.x=3,4")]

    assert columns(settings) == ["workflows[0].args.x", "components[1].args.x"]


@pytest.mark.parametrize("value", ["../../etc", "a/b", "a\nb", "ä" * 300, "*?<>|", "-rf", ".."])
def test_a_folder_has_a_name_that_is_safe_everywhere(value):
    [first, _] = product([Setting(key="app_config", values=[value, "other"])], [1])

    assert "/" not in first.name
    assert first.name.isascii()
    assert first.name.isprintable()
    assert first.name.startswith("001")
    assert len(first.name) <= 90


def test_a_key_is_given_once():
    with pytest.raises(UsageError, match="--set lr is given twice"):
        product([read_setting("lr=1"), read_setting("lr=2")], [1])


def test_a_product_of_more_than_ten_thousand_runs_is_refused_before_it_is_made():
    settings = [Setting(key=f"k{number}", values=[str(value) for value in range(100)]) for number in range(20)]

    with pytest.raises(UsageError, match="the most are 10,000"):
        product(settings, [1])
