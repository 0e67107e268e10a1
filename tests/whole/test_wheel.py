"""The wheel, in an environment and a folder that know nothing of the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 280


def call(*words, cwd, **env):
    given = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FEDSAG_HOME")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=given | env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    alone = ["--no-isolation"] if find_spec("hatchling") else []
    call(sys.executable, "-m", "build", "--wheel", *alone, "--outdir", folder, cwd=ROOT)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`fedsag` of a clean environment, which sees this one's packages after its own."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    # a line that is a path is put at the end of sys.path, and the .pth files in it are left alone
    (packages / "zz_the_others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "fedsag"


@pytest.mark.slow
def test_it_holds_the_package_and_the_templates_as_real_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        there = {info.filename: info for info in archive.infolist()}

    templates = [path for path in (ROOT / "job_templates").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(templates) > 10
    for path in templates:
        info = there[f"fedsag_cli/job_templates/{path.relative_to(ROOT / 'job_templates')}"]
        assert info.file_size == path.stat().st_size  # what a link leads to, not the link
        assert (info.external_attr >> 16) & 0o170000 in (0, 0o100000)
    tops = {name.split("/")[0] for name in there}
    assert len(tops) == 2
    assert "fedsag_cli" in tops
    assert {"fedsag_cli/schemas/report.schema.json", "fedsag_cli/schemas/events.schema.json"} <= there.keys()


@pytest.mark.slow
def test_it_works_from_anywhere(installed, tmp_path):
    where = call(installed.parent / "python", "-c", "import fedsag_cli; print(fedsag_cli.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent.parent))

    listed = call(installed, "job", "list_templates", cwd=tmp_path, HOME=str(tmp_path))
    call(installed, "job", "create", "-w", "sag_np", cwd=tmp_path, HOME=str(tmp_path))
    for launcher in ("fork", "spawn"):
        ran = call(
            installed, "simulator", "-n", "2", "-t", "2", "--launcher", launcher, cwd=tmp_path, HOME=str(tmp_path)
        )
        assert "answered" in ran

    assert all(name in listed for name in ("sag_np", "sag_pt", "sag_pt_in_proc", "sag_pt_deploy_map"))
    assert (tmp_path / "simulator_workspace" / "report.json").exists()
    assert "uPlot" in (tmp_path / "simulator_workspace" / "report.html").read_text()  # with the files that draw it
