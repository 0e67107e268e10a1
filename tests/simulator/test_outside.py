"""The code outside the job that a command names."""

import hashlib

from fedsag_cli.simulator.outside import digests


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_script_outside_counts_with_the_modules_beside_it_that_it_imports(tmp_path):
    job, there = tmp_path / "job", tmp_path / "there"
    for path, text in {
        job / "train.py": "inside",
        there / "train.py": "import net, os\nfrom pack import part\n",
        there / "net.py": "import deep",
        there / "deep.py": "import net",
        there / "pack" / "__init__.py": "",
        there / "pack" / "part.py": "1",
        there / "unused.py": "2",
        there / "lr.yaml": "lr: 1",
        there / "result.csv": "3",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    words = ["python3", "a.py", f"{job}/train.py", f"{there}/train.py", f"--conf={there}/lr.yaml"]

    found = digests([*words, f"{there}/result.csv", f"{there}/gone.py", "\0.py"], [job])

    assert found == {
        f"{there}/train.py": sha256("import net, os\nfrom pack import part\n"),
        f"{there}/net.py": sha256("import deep"),
        f"{there}/deep.py": sha256("import net"),
        f"{there}/pack/__init__.py": sha256(""),
        f"{there}/pack/part.py": sha256("1"),
        f"{there}/lr.yaml": sha256("lr: 1"),
    }


def test_a_script_that_is_no_python_is_taken_as_it_is(tmp_path):
    for name in ("broken.py", "run.sh"):
        (tmp_path / name).write_text("import (")

    assert set(digests([f"{tmp_path}/broken.py", f"{tmp_path}/run.sh"], [])) == {
        f"{tmp_path}/broken.py",
        f"{tmp_path}/run.sh",
    }
