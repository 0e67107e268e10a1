"""Train the same model with several algorithms, on pictures divided alike and unlike, and print one table.

    python compare.py                                   # about ten minutes on two cores
    python compare.py --only fedavg,scaffold --rounds 5
    python compare.py --seeds 3                         # three runs of each; the table has their means

Each line is one job, made from a template and run by `fedsag simulator`. Jobs and reports stay in --workspace.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, pstdev

HERE = Path(__file__).resolve().parent
DATASET_PATH = "/tmp/fedsag/data/cifar10"
ALIKE, UNLIKE = "iid", "dirichlet:0.1"
ATTACK = (  # one site sends five times its change, with the other sign
    'task_result_filters=[{ tasks = ["train"], filters = [{ path = SignFlipAttack, '
    "args { sites = [site-1], scale = 5 } }] }]"
)


@dataclass(frozen=True)
class Job:
    """A template, what is set in its config files, and how the pictures are divided among the sites."""

    algorithm: str
    template: str = "sag_pt"
    server: Sequence[str] = ()
    client: Sequence[str] = ()
    split: str = ALIKE
    attack: str = ""

    @property
    def name(self):
        return "-".join(filter(None, (self.algorithm, self.split.replace(":", "-"), self.attack))).lower()


def aggregator(path, args=""):
    """Another aggregator in the template's place, with arguments of its own."""
    return [f"components[1].path={path}", f"components[1].args={{ {args} }}"]


def updater(path, args):
    """A component more, which makes the next model from the mean."""
    parts = [
        "{ id = persistor, path = PTFileModelPersistor, args { model { path = net.Net } } }",
        "{ id = aggregator, path = FedAvg }",
        "{ id = model_selector, path = IntimeModelSelector, args { key_metric = accuracy } }",
        f"{{ id = updater, path = {path}, args {{ {args} }} }}",
    ]
    return [f"components=[{', '.join(parts)}]", "workflows[0].args.updater_id=updater"]


ALGORITHMS = [
    Job("FedAvg"),
    Job("FedProx", server=["fedprox_mu=0.1"]),
    Job("SCAFFOLD", "sag_pt_scaffold"),
    Job("FedAdam", server=updater("FedAdam", "eta = 0.01")),
]
ROBUST = [
    Job("FedAvg"),
    Job("Median", server=aggregator("CoordinateMedian")),
    Job("TrimmedMean", server=aggregator("TrimmedMean")),
    Job("Krum", server=aggregator("Krum", "num_byzantine = 1")),
    Job("MultiKrum", server=aggregator("Krum", "num_byzantine = 1, num_chosen = 3")),
]
JOBS = [
    *(replace(job, split=split) for split in (ALIKE, UNLIKE) for job in ALGORITHMS),
    *(replace(job, client=[ATTACK], attack="sign flip") for job in ROBUST),
]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", default=DATASET_PATH, help="the folder with CIFAR-10, see code/data.py")
    parser.add_argument("--workspace", type=Path, default=Path("/tmp/fedsag/algorithms"), help="where the jobs run")
    parser.add_argument("--only", help="some of the algorithms, such as fedavg,scaffold")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2, help="clients that train at the same time")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of each job, with the seeds 1, 2, …")
    parser.add_argument("--script_args", default="", help="further arguments of code/train.py")
    return parser.parse_args()


def main():
    args = parse_args()
    known = {job.algorithm.lower(): job.algorithm for job in JOBS}
    only = {name.strip().lower() for name in (args.only or "").split(",") if name.strip()}
    if unknown := only - known.keys():
        sys.exit(f"error: --only: unknown {', '.join(sorted(unknown))}; known: {', '.join(known.values())}")
    table = [("algorithm", "split", "attack", "final", "best", "seconds", "digest")]
    failed = False
    if not any((Path(args.dataset_path) / name).is_dir() for name in ("cifar-10-batches-py", "train")):
        print(f"note: no CIFAR-10 in {args.dataset_path}: this table is of a small generated set", file=sys.stderr)
    for job in [job for job in JOBS if not only or job.algorithm.lower() in only]:
        try:
            runs = [run(job, seed, args) for seed in range(1, args.seeds + 1)]
        except Failed as error:
            print(error, file=sys.stderr)
            failed, measured = True, ("failed", "-", "-", "-")
        else:
            finals, bests, seconds, digests = zip(*runs, strict=True)
            measured = shown(finals), shown(bests), f"{mean(seconds):.0f}", digests[0][:12]
        table.append((job.algorithm, job.split, job.attack or "none", *measured))
        print("done:", *table[-1], file=sys.stderr)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.exit(int(failed))


def run(job, seed, args):
    """The accuracy of the last model and of the best one, the seconds, and the digest of the last model."""
    folder = args.workspace / f"{job.name.replace(' ', '-')}-{seed}"
    script = f"--dataset_path {args.dataset_path} --split {job.split} --split_seed {seed}"
    server = [f"num_rounds={args.rounds}", f"min_clients={args.clients}", *job.server]
    client = [f"app_config={script} {args.script_args}", *job.client]
    fedsag(
        *("job", "create", "-w", job.template, "-j", folder / "job", "-sd", HERE / "code", "-force"),
        *("-f", "config_fed_server.conf", *server, "-f", "config_fed_client.conf", *client),
    )
    shutil.rmtree(folder / "ws", ignore_errors=True)
    began = time.monotonic()
    fedsag("simulator", folder / "job", "-w", folder / "ws", "-n", args.clients, "-t", args.threads, "--seed", seed)
    seconds = time.monotonic() - began
    report = json.loads((folder / "ws" / "report.json").read_text())
    return report["final_metrics"]["accuracy"], report["best"]["score"], seconds, report["digest"]


class Failed(Exception):
    """A command failed: what it said on standard error, and the command."""


def fedsag(*words):
    """Run the command. Raises Failed."""
    done = subprocess.run([sys.executable, "-m", "fedsag_cli", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{done.stderr}failed: fedsag {' '.join(map(str, words))}")


def shown(values):
    """The mean, with the standard deviation if there are several."""
    return f"{mean(values):.1f}" + (f" ± {pstdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
