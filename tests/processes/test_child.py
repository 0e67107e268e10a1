"""What is imported before the processes are forked."""

import sys

from fedsag_cli.processes.child import preload


def test_a_name_brings_the_module_that_its_package_imports_only_for_it(tmp_path, monkeypatch):
    package = tmp_path / "lazy_package"
    package.mkdir()
    (package / "__init__.py").write_text("def __getattr__(name):\n    import lazy_package.inner\n    return 1")
    (package / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lazy_package", "lazy_package.inner"):  # they are gone after the test
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)

    preload(["lazy_package"])
    assert "lazy_package.inner" not in sys.modules
    preload(["lazy_package:anything"])
    assert "lazy_package.inner" in sys.modules


def test_what_cannot_be_imported_is_left_to_the_script():
    preload(["", "no_such_module", "json:no_such_name", "no_such_module:name"])
