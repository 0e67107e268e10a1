"""What users' components log of an exception."""

import logging

from fedsag_cli.interop.base import exceptions


def test_an_exception_is_logged_with_its_class_and_its_lines(caplog):
    try:
        {}["missing"]
    except KeyError as error:
        told = exceptions.secure_format_exception(error)
        exceptions.secure_log_traceback()
        exceptions.secure_log_traceback(logging.getLogger("mine"))

    assert told == "KeyError: 'missing'"
    assert [record.name for record in caplog.records] == ["root", "mine"]
    assert all('{}["missing"]' in record.message for record in caplog.records)
