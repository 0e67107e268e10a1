"""References to secrets in the words of a script."""

import pytest

from fedsag_cli.errors import JobError
from fedsag_cli.simulator.references import resolved


def test_a_variable_and_a_file_take_the_place_of_their_references(tmp_path):
    (tmp_path / "key").write_text("of file\n")
    word = f"a=${{secret:KEY}},b=${{secret:file:{tmp_path}/key}},$KEY"

    assert resolved(word, {"KEY": "of variable"}) == "a=of variable,b=of file,$KEY"


@pytest.mark.parametrize("word", ["${secret:KEY}", "${secret:file:/no/such/file}"])
def test_one_without_a_value_is_an_error_that_names_it(word):
    with pytest.raises(JobError) as caught:
        resolved(word, {})

    assert word in str(caught.value)
