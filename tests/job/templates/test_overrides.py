"""`-f FILE key=value`: which key of a file it is, and which type its value has."""

import copy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsag_cli.errors import JobError
from fedsag_cli.job.config import hocon, tree
from fedsag_cli.job.templates.overrides import Override, apply

SERVER = {
    "num_rounds": 2,
    "lr": 0.5,
    "note": "",
    "seed": None,
    "server": {"heart_beat_timeout": 60},
    "workflows": [
        {
            "id": "flow",
            "path": "fake.Flow",
            "args": {"num_rounds": "{num_rounds}", "train_timeout": 0, "ratio": 1, "names": ["a"], "weights": {"x": 1}},
        }
    ],
    "components": [
        {"id": "one", "path": "fake.Part", "args": {"size": 3, "verbose": False}},
        {"id": "two", "path": "fake.Part", "args": {"model": {"path": "fake.Net"}}},
        {"id": "three", "path": "elsewhere.Thing", "args": {"depth": 1}},
    ],
}
FAKE = """
class Flow:
    def __init__(self, num_rounds: int, train_timeout: int = 0, ratio: float = 1.0, names=None, weights=None,
                 grace: float = 2.0, quiet: bool = False, part=None, title: str | None = None): ...

class Part:
    def __init__(self, size: int = 3, verbose: bool = False, model=None, label: str = "x"): ...

class Net:
    def __init__(self, num_classes: int = 10): ...
"""


@pytest.fixture
def changed(tmp_path):
    (tmp_path / "fake.py").write_text(FAKE)

    def changed(*words, file="config_fed_server.conf", tree=SERVER):
        conf = copy.deepcopy(tree)
        overrides = [Override.read(word, file) for word in words]
        apply(conf, overrides, file=file, search=[tmp_path], elsewhere={"app_script": "config_fed_client.conf"})
        return conf

    return changed


def args(conf, at, name="components"):
    return conf[name][at]["args"]


def test_a_bare_key_that_is_there_once_is_set(changed):
    assert args(changed("train_timeout=5"), 0, "workflows")["train_timeout"] == 5


def test_a_key_that_only_repeats_the_variable_above_is_not_a_second_one(changed):
    conf = changed("num_rounds=7")

    assert conf["num_rounds"] == 7
    assert args(conf, 0, "workflows")["num_rounds"] == "{num_rounds}"


def test_a_bare_key_that_is_there_twice_is_an_error_listing_both_paths(changed):
    with pytest.raises(JobError, match=r"'id' is found more than once: workflows\[0\]\.id, components\[0\]\.id"):
        changed("id=x")


def test_a_key_at_the_top_that_others_are_called_like_is_meant_by_its_name_in_quotes(changed):
    conf = {"x": 1, "a": {"x": 2}}

    with pytest.raises(JobError, match=r"'x' is found more than once: \"x\", a\.x"):
        changed("x=3", tree=conf)
    assert changed('"x"=3', "a.x=4", tree=conf) == {"x": 3, "a": {"x": 4}}
    assert changed('"x"-', tree=conf) == {"a": {"x": 2}}


def test_a_bare_key_may_be_an_argument_its_constructor_has(changed):
    conf = changed("grace=3", "quiet=TRUE", "title=5")

    assert args(conf, 0, "workflows") == {**args(SERVER, 0, "workflows"), "grace": 3, "quiet": True, "title": "5"}


def test_an_argument_two_components_could_take_is_an_error(changed):
    with pytest.raises(JobError, match=r"components\[0\]\.args\.label, components\[1\]\.args\.label"):
        changed("label=y")


def test_a_path_with_an_index_sets_that_one(changed):
    conf = changed("components[1].args.label=5", "components[1].args.model.args.num_classes=3")

    assert args(conf, 1) == {"label": "5", "model": {"path": "fake.Net", "args": {"num_classes": 3}}}


def test_a_component_whose_class_is_not_here_takes_any_argument(changed):
    assert args(changed("components[2].args.new=a b"), 2) == {"depth": 1, "new": "a b"}


@pytest.mark.parametrize(
    ("word", "says", "hint"),
    [
        ("num_round=1", "config_fed_server.conf has no key 'num_round'", "num_rounds"),
        ("app_script=x", "has no key 'app_script'", "it is a key of config_fed_client.conf"),
        ("nosuch-", "has no key 'nosuch'", ""),
        ("components[9].args.x=1", "components has 3 entries", ""),
        ("components[0].args.siz=1", "Part takes no argument 'siz'", "'size'"),
        ("components[1].args.model.args.num_class=1", "Net takes no argument 'num_class'", "'num_classes'"),
        ("component[0].args.size=1", "no key 'component'", "'components'"),
        ("components[0].arg.size=1", "no key 'components[0].arg'", "'components[0].args'"),
        ("server.heartbeat=1", "no key 'server.heartbeat'", "heart_beat_timeout"),
        ("aggregator.args.x=1", "no key 'aggregator'", ""),
        ("num_rounds.x=1", "no key 'num_rounds.x'", "not an object"),
        ("num_rounds[0]=1", "num_rounds is not a list", ""),
        ("components.one=1", "no key", ""),
        (".num_rounds=1", "'.num_rounds' is not a key", ""),
        ("a..b=1", "'a..b' is not a key", ""),
        ("[0]=1", "'[0]' is not a key", ""),
    ],
)
def test_what_is_not_there_is_an_error_with_the_nearest_name(changed, word, says, hint):
    with pytest.raises(JobError) as error:
        changed(word)

    assert says in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("num_rounds=0", "num_rounds", 0),
        ("num_rounds=+3", "num_rounds", 3),
        ("lr=1e-3", "lr", 0.001),
        ("lr=2", "lr", 2),
        ("note=5", "note", "5"),
        ("note=", "note", ""),
        ("note=false", "note", "false"),
        ("note=a=b", "note", "a=b"),
        ("note= x ", "note", " x "),
        ("seed=7", "seed", 7),
        ("seed=null", "seed", None),
        ("seed=some text", "seed", "some text"),
        ("seed=[1, x]", "seed", [1, "x"]),
        ("seed=True", "seed", True),
    ],
)
def test_a_value_takes_the_type_of_what_stands(changed, word, key, value):
    got = changed(word)[key]

    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("ratio=0.5", "ratio", 0.5),
        ('names=[b, "", c d]', "names", ["b", "", "c d"]),
        ("names=[]", "names", []),
        ("weights={site-1 = 2.0}", "weights", {"site-1": 2.0}),
        ("workflows[0].args.num_rounds=9", "num_rounds", 9),
        ("title=null", "title", None),
        ("title=nothing", "title", "nothing"),
        ('title=""', "title", ""),
    ],
)
def test_lists_and_objects_are_hocon_and_an_annotation_comes_before_what_stands(changed, word, key, value):
    assert args(changed(word), 0, "workflows")[key] == value


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("num_rounds=abc", "num_rounds must be a whole number, not 'abc'"),
        ("num_rounds=", "num_rounds must be a whole number, not ''"),
        ("num_rounds=2.5", "a whole number"),
        ("num_rounds=1_0", "a whole number"),
        ("lr=nan", "lr must be a number, not 'nan'"),
        ("lr=1e999", "a number"),
        ("verbose=1", "verbose must be true or false, not '1'"),
        ("verbose=yes", "true or false"),
        ("names=b", "names must be a list such as [1, 2], not 'b'"),
        ("weights=[1]", "weights must be an object"),
        ("weights={a = 1}\nb = 2", "more than one value"),
        ("names=[1", "not HOCON"),
        ('names=[include url("http://127.0.0.1:1/")]', "include"),
        ("workflows[0].args.num_rounds=x", "a whole number"),
    ],
)
def test_a_wrong_type_is_an_error_saying_what_is_expected(changed, word, expected):
    with pytest.raises(JobError) as error:
        changed(word)

    assert error.value.message.startswith("config_fed_server.conf: ")
    assert expected in error.value.message


def test_a_key_with_a_dash_is_removed(changed):
    conf = changed("note-", "components[1].args.model-", "verbose-", "components[0]-", "workflows[0].args.names[0]-")

    assert "note" not in conf
    assert [component["id"] for component in conf["components"]] == ["two", "three"]
    assert args(conf, 0) == {}
    assert args(conf, 0, "workflows")["names"] == []


def test_several_are_removed_from_a_list_as_they_were_counted_before(changed):
    conf = changed("components[0]-", "components[1]-")

    assert [component["id"] for component in conf["components"]] == ["three"]


def test_the_last_one_for_a_key_wins(changed):
    assert changed("num_rounds=3", "num_rounds=4")["num_rounds"] == 4
    assert changed("note-", "note=x")["note"] == "x"
    assert "note" not in changed("note=x", "note-")


@pytest.mark.parametrize("word", ["num_rounds", "=5", "-", "note-=x"])
def test_a_word_that_is_no_override_is_an_error(word):
    with pytest.raises(JobError, match=r"x\.conf"):
        Override.read(word, "x.conf")


def test_meta_takes_its_own_keys_and_any_site_below_them(changed):
    meta = {"name": "x", "deploy_map": {"app": ["@ALL"]}}
    words = ["min_clients=2", "mandatory_clients=[site-1]", "deploy_map.app_2=[site-2]", "resource_spec.site-1.gpus=1"]

    assert changed(*words, file="meta.conf", tree=meta) == {
        "name": "x",
        "deploy_map": {"app": ["@ALL"], "app_2": ["site-2"]},
        "min_clients": 2,
        "mandatory_clients": ["site-1"],
        "resource_spec": {"site-1": {"gpus": 1}},
    }


@given(st.text())
def test_any_text_arrives_as_it_is_written(text):
    conf = {"a": "x"}

    apply(conf, [Override.read(f"a={text}", "x.conf")], file="x.conf")

    assert conf == {"a": "" if text == '""' else text}


def test_an_argument_that_takes_no_null_takes_the_word(changed):
    assert args(changed("components[0].args.label=null"), 0)["label"] == "null"


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.from_regex(r"\A[a-z][a-z_]{0,5}\Z")
LEAVES = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | ANY_TEXT
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3) | st.lists(inner, max_size=3)
    ),
    min_size=1,
    max_size=4,
)


def written(value):
    return value if isinstance(value, str) else hocon.literal(value)


@settings(max_examples=150, deadline=None)
@given(TREES, st.data())
def test_any_value_is_set_by_the_path_it_is_at_and_nothing_else_changes(conf, data):
    at, old = data.draw(st.sampled_from(list(tree.leaves(conf))))
    new = data.draw(
        st.just(old) if isinstance(old, list | dict) else st.from_type(type(old)).filter(lambda value: value == value)
    )
    if isinstance(new, float):
        new = data.draw(st.floats(allow_nan=False, allow_infinity=False))
    if isinstance(new, str):
        new = data.draw(ANY_TEXT)
    expected = copy.deepcopy(conf)
    tree.put(expected, at, new)

    apply(conf, [Override.read(f"{tree.unambiguous(at)}={written(new)}", "x.conf")], file="x.conf")

    assert repr(conf) == repr(expected)


@settings(max_examples=100, deadline=None)
@given(TREES, st.data())
def test_any_key_is_removed_by_the_path_it_is_at_and_nothing_else_changes(conf, data):
    at, _ = data.draw(st.sampled_from(list(tree.walk(conf))))
    expected = copy.deepcopy(conf)
    tree.remove(expected, at)

    apply(conf, [Override.read(f"{tree.unambiguous(at)}-", "x.conf")], file="x.conf")

    assert conf == expected


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab.[]0"=-{}$,: \n\\é')) | st.text())
@example("num_rounds=" + "9" * 5000)
@example("seed=" + "9" * 5000)
@example("seed=" + "[" * 5000)
@example("a" + ".a" * 5000 + "=1")
def test_any_word_sets_something_or_is_refused(word):
    conf = {"num_rounds": 1, "seed": None, "a": {"b": [1, {"a": "x"}]}, "b": "y"}
    before = copy.deepcopy(conf)

    try:
        apply(conf, [Override.read(word, "x.conf")], file="x.conf")
    except JobError:
        assert conf == before
