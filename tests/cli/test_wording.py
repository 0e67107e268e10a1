"""How values are written on a line."""

from fedsag_cli.cli import wording


def test_a_line_of_bars_goes_from_the_lowest_to_the_highest_with_gaps_where_nothing_was_measured():
    assert wording.sparkline([0, 1, None, 7, 3.5], 8) == "▁▂ █▅"
    assert wording.sparkline([5, 5], 8) == "▄▄"
    assert wording.sparkline([0, 2, 10, 12], 2) == "▂▇"  # means 1 and 11, from 0 to 12 in eight steps
    assert wording.sparkline([3], 8, scale=[0, 7]) == "▄"
    assert wording.sparkline([None], 8) == ""
    assert wording.sparkline([-1.7e308, 1.7e308], 8) == "▁█"


def test_a_size_is_written_in_the_largest_unit_of_which_there_is_one():
    sizes = [0, 999, 1000, 1530, 999_949, 999_950, 2_000_000_000, 3 * 10**15]

    written = ["0 bytes", "999 bytes", "1.0 kB", "1.5 kB", "999.9 kB", "1.0 MB", "2.0 GB", "3000 TB"]
    assert [wording.size(each) for each in sizes] == written
