"""What scripts for NVFLARE's examples of scikit-learn use: rows of a table, and packages that may be missing."""

import math

import pytest

from fedsag_cli.client.data_files import load_data, load_data_for_range
from fedsag_cli.client.optional import optional_import


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("pandas", reason="pandas is not installed")
    file = tmp_path / "table.csv"
    file.write_text("0,1.5,2\n1,3,4\n0,5,6\n")
    return str(file)


def test_the_label_is_the_first_column_of_the_rows_in_the_range(table):
    x, y, count = load_data_for_range(table, 1, 3)

    assert (x.tolist(), y.tolist(), count) == ([[3.0, 4.0], [5.0, 6.0]], [1, 0], 2)


def test_all_rows_without_a_range(table):
    assert load_data(table)[2] == 3


def test_a_first_line_of_names_is_no_row(tmp_path, table):
    (tmp_path / "named.csv").write_text("label,width\n1,2\n")

    assert load_data(str(tmp_path / "named.csv"), require_header=True)[0].tolist() == [[2]]


def test_a_file_of_another_kind_is_an_error_that_names_the_endings():
    with pytest.raises(ValueError, match=r"table\.json: its name must end in one of \.csv"):
        load_data("table.json")


def test_a_package_or_a_name_in_it_is_imported_if_it_is_there():
    assert optional_import("math") == (math, True)
    assert optional_import(module="math", name="pi") == (math.pi, True)


@pytest.mark.parametrize("wanted", [{"module": "no_such_package"}, {"module": "math", "name": "tau_and_more"}])
def test_what_is_missing_is_an_error_only_when_it_is_used(wanted):
    found, is_there = optional_import(**wanted)

    assert not is_there
    with pytest.raises(ImportError, match=r"no_such_package|tau_and_more"):
        found.anything  # noqa: B018
