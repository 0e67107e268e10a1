"""What a sweep asks for, against what the sweep in its folder asked for."""

from pathlib import Path

import msgspec
import pytest

from fedsag_cli.errors import WorkspaceError
from fedsag_cli.sweep.folder import Asked, check_same

ASKED = Asked(job="jobs/np", sets=["lr=1,2"], seeds=[1, 2, 3, 4, 5, 6, 7], options={"-n": 2}, plan="p", runs=[])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [1]}, "--seeds of the sweep in sw was 1, 2, 3, 4, 5 and 2 more, and is 1 now"),
        ({"sets": []}, "--set of the sweep in sw was lr=1,2, and is none now"),
        ({"options": {"-n": 3}}, "-n of the sweep in sw was 2, and is 3 now"),
        ({"plan": "other"}, "the job has changed since the sweep in sw began"),
    ],
)
def test_what_has_changed_is_named(change, said):
    check_same(ASKED, ASKED, Path("sw"))

    with pytest.raises(WorkspaceError) as refused:
        check_same(ASKED, msgspec.structs.replace(ASKED, **change), Path("sw"))

    assert refused.value.message == said
