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
from pathlib import Path
from statistics import mean, pstdev

HERE = Path(__file__).resolve().parent
DATASET_PATH = "/tmp/fedsag/data/cifar10"
ALIKE, UNLIKE = "iid", "dirichlet:0.1"

ALGORITHMS = {  # the template, and what is set in its config_fed_server.conf
    "FedAvg": ("sag_pt", []),
    "FedProx": ("sag_pt", ["fedprox_mu=0.1"]),
    "SCAFFOLD": ("sag_pt_scaffold", []),
}


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
    only = {name.strip().lower() for name in (args.only or "").split(",") if name.strip()}
    if unknown := only - {name.lower() for name in ALGORITHMS}:
        sys.exit(f"error: --only: unknown {', '.join(sorted(unknown))}; known: {', '.join(ALGORITHMS)}")
    chosen = [name for name in ALGORITHMS if not only or name.lower() in only]
    table = [("algorithm", "split", "final", "best", "seconds", "digest")]
    for split in (ALIKE, UNLIKE):
        for name in chosen:
            runs = [run(name, split, seed, args) for seed in range(1, args.seeds + 1)]
            finals, bests, seconds, digests = zip(*runs, strict=True)
            table.append((name, split, shown(finals), shown(bests), f"{mean(seconds):.0f}", digests[0][:12]))
            print(*table[-1], file=sys.stderr)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def run(name, split, seed, args):
    """The last model's accuracy, the best model's, the seconds, and the digest of the last model."""
    template, changes = ALGORITHMS[name]
    folder = args.workspace / f"{name.lower()}-{split.replace(':', '-')}-{seed}"
    script = f"--dataset_path {args.dataset_path} --num_sites {args.clients} --split {split} --split_seed {seed}"
    fedsag(
        *("job", "create", "-w", template, "-j", folder / "job", "-sd", HERE / "code", "-force"),
        *("-f", "config_fed_server.conf", f"num_rounds={args.rounds}", f"min_clients={args.clients}", *changes),
        *("-f", "config_fed_client.conf", 'tasks=["train","validate"]', f"app_config={script} {args.script_args}"),
    )
    shutil.rmtree(folder / "ws", ignore_errors=True)
    began = time.monotonic()
    fedsag("simulator", folder / "job", "-w", folder / "ws", "-n", args.clients, "-t", args.threads, "--seed", seed)
    seconds = time.monotonic() - began
    report = json.loads((folder / "ws" / "report.json").read_text())
    return report["final_metrics"]["accuracy"], report["best"]["score"], seconds, report["digest"]


def fedsag(*words):
    """Run the command. Its output is shown only if it fails."""
    done = subprocess.run([sys.executable, "-m", "fedsag_cli", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nerror: fedsag {' '.join(map(str, words))} failed")


def shown(values):
    """The mean, with the standard deviation if there are several."""
    return f"{mean(values):.1f}" + (f" ± {pstdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
