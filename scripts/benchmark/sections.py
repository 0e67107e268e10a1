"""The works, one function each: what runs, what is measured, what should come of it."""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmark import faults, measure, systems
from benchmark.faults import Fault
from benchmark.measure import Failed, Held, Took
from benchmark.results import Results, Row, Target, ratio_of
from benchmark.systems import CODE, FEDSAG, Job, NotInstalled, System, Work

_BIG = 256 << 20
_SLOW_S = 4.0  # a system whose run takes longer is run `slow_runs` times


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`folder` is for whatever the works make. `runs` count for the medians, `slow_runs` of what takes long.

    `left_out` is told of each peer that is not measured, and why.
    """

    folder: Path
    runs: int = 5
    slow_runs: int = 3
    peers: bool = False
    left_out: list[str] = field(default_factory=list)


@dataclass
class Series:
    """The runs of one system, and what it and all its processes held at their peak in a run that does not count.

    `rounds`: by run, the seconds of the rounds beyond the first, where the system tells.
    """

    system: System
    peak: int | None = None
    took: list[Took] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [each.seconds for each in self.took]

    @property
    def seconds_a_round(self) -> list[float]:
        """By run, the mean over the rounds beyond the first."""
        return [statistics.mean(rounds) for rounds in self.rounds]

    def row(self, work: str) -> Row:
        return Row(work=work, system=self.system.name, seconds=self.seconds, peak=self.peak)


def w0_numpy(settings: Settings) -> Results:
    """sag_np as it is: the whole command beside the imports it cannot do without."""
    work = Work(name="W0 numpy", clients=2, slots=2, rounds=5, pictures=0)
    job = Job(template="sag_np", clients=work.clients, slots=work.slots, code=None)
    contestants = [systems.fedsag(settings.folder / work.name, job), _python(settings, "numpy, typer, rich, pyhocon")]
    contestants += installed(
        settings,
        *(functools.partial(systems.nvflare_numpy, settings.folder, work, tuned=tuned) for tuned in (False, True)),
    )
    series = _alternate(contestants, settings)
    found = Results(rows=[each.row(work.name) for each in series.values()])
    ratio = ratio_of(series["fedsag"].seconds, series["its imports"].seconds)
    found.targets.append(Target(work=work.name, says="fedsag / its imports", value=ratio, limit=3.0))
    return found


def w1_seed(settings: Settings) -> Results:
    """The tutorial's training, made small; and where the time goes."""
    work = Work(name="W1 seed", clients=2, slots=2, rounds=5, pictures=600)
    limits = {"bare nursery": 1.2, "plain loop": 0.85, "NVFLARE": 8.0, "NVFLARE tuned": 6.0}
    series = _training(work, settings)
    found = _held_against(work, series, limits)
    found.stages = _stages(series["fedsag"])
    last_reply = max(event["at"] for event in series["fedsag"].system.events() if event["event"] == "ReplyAccepted")
    to_prompt = series["fedsag"].took[-1].ended - last_reply
    found.targets.append(Target(work=work.name, says="s from the last reply to the prompt", value=to_prompt, limit=0.2))
    return found


def w2_many(settings: Settings) -> Results:
    """More clients than work at a time."""
    work = Work(name="W2 many", clients=16, slots=2, rounds=3, pictures=600)
    return _held_against(work, _training(work, settings), {"bare nursery": 1.15, "NVFLARE": 30.0})


def w3_idle(settings: Settings) -> Results:
    """What a round costs when nobody trains."""
    found = Results()
    for clients, limit_ms in ((2, 5.0), (100, 100.0)):
        work = f"W3 idle {clients}"
        counts = ["num_rounds=50", f"min_clients={clients}"]
        job = Job(template="sag_np", clients=clients, slots=2, server=counts, code=None)
        system = systems.fedsag(settings.folder / work, job)
        took = [system.run().seconds]
        rounds = system.round_seconds()
        found.rows += [
            Row(work=work, system="fedsag", seconds=took),
            Row(work=work, system="a round", seconds=rounds, unit="ms"),
        ]
        value = 1e3 * statistics.median(rounds)
        found.targets.append(Target(work=work, says="ms a round, checkpoint included", value=value, limit=limit_ms))
    trips = [float(_floor(settings, "trip").out) for _ in range(settings.runs)]
    found.rows.append(Row(work="W3 idle 2", system="a socket trip", seconds=trips, unit="ms"))
    found.rows.append(_idle_from_outside(settings, "W3 idle 2", "sag_np", ["app_script=train.py"], code=None))
    found.rows.append(_idle_from_outside(settings, "W3 idle 2 torch", "sag_pt", ["app_script=idle.py"], code=CODE))
    return found


def _idle_from_outside(settings: Settings, work: str, template: str, client: list[str], code: Path | None) -> Row:
    """What a hundred more rounds add to the whole command, by round: events cannot leave anything out."""
    few, many = (
        systems.fedsag(
            settings.folder / f"{work} {template} {rounds}",
            Job(
                template=template,
                clients=2,
                slots=2,
                server=[f"num_rounds={rounds}", "min_clients=2"],
                client=client,
                code=code,
            ),
        )
        for rounds in (10, 110)
    )
    took = [(many.run().seconds - few.run().seconds) / 100 for _ in range(settings.runs)]
    return Row(work=work, system="a round, from outside", seconds=took, unit="ms")


def w4_big(settings: Settings) -> Results:
    """A model of 256 MB: the cost of a round, and what the server holds."""
    work = "W4 big"
    system = _big(settings, clients=2, rounds=8, delay_s=0)
    took = system.run()
    rounds = system.round_seconds()
    floors = [float(word) for word in _floor(settings, "copy", "7").out.split()]
    found = Results(
        rows=[
            Row(work=work, system="fedsag", seconds=[took.seconds]),
            Row(work=work, system="a round", seconds=rounds, unit="ms"),
            Row(work=work, system="the copies alone", seconds=floors, unit="ms"),
        ]
    )
    ratio = statistics.median(rounds) / statistics.median(floors)
    found.targets.append(Target(work=work, says="a round / the copies alone", value=ratio, limit=2.0))
    for clients, delay_s in ((2, 1), (8, 4)):
        system = _big(settings, clients=clients, rounds=1, delay_s=delay_s)
        held = _by_name(system, system.run(sample=True)).get("server")
        if held:
            above = (max(each.total for each in held) - held[0].total) / _BIG
            says = f"models the server holds, {clients} clients, site-1 last"
            found.targets.append(Target(work=work, says=says, value=above, limit=3.0))
    return found


def w5_waiting(settings: Settings) -> Results:
    """Many clients that wait and keep their state."""
    work = Work(name="W5 crowd", clients=200, slots=2, rounds=2, pictures=60)
    system = systems.fedsag_training(settings.folder / work.name, work)
    took = system.run(sample=True)
    found = Results(rows=[Row(work=work.name, system="fedsag", seconds=[took.seconds], peak=_peak(took))])
    held = _by_name(system, took)
    if waiting := [each[-1].private / 1e6 for name, each in held.items() if name.startswith("site-")]:
        says, value = "private MB of a waiting client", statistics.median(waiting)
        found.targets.append(Target(work=work.name, says=says, value=value, limit=30.0))
    return found


def w6_crowd(settings: Settings) -> Results:
    """A thousand clients with the CNN of pfl's benchmark, fifty a round, trained by two workers."""
    work = Work(name="W6 crowd", clients=1000, slots=2, rounds=10, pictures=50, net="Cnn", cohort=50)
    series = crowd(work, settings)
    found = Results(rows=[each.row(work.name) for each in series.values()])
    by_round = {name: each.seconds_a_round for name, each in series.items()}
    found.rows += [Row(work=f"{work.name}, a round", system=name, seconds=took) for name, took in by_round.items()]
    for name, limit in (("floor", 1.1), ("pfl 2", 1.0)):
        if name in by_round:
            ratio = ratio_of(by_round["fedsag"], by_round[name])
            says = f"a round: fedsag / {name}"
            found.targets.append(Target(work=work.name, says=says, value=ratio, limit=limit))
    return found


def w7_population(settings: Settings) -> Results:
    """Ten thousand clients, a hundred a round: what a client costs beyond its training, and one that waits."""
    work = Work(name="W7 population", clients=10_000, slots=2, rounds=20, pictures=60, cohort=100)
    series = crowd(work, replace(settings, peers=False), look=False)
    by_round = {name: each.seconds_a_round for name, each in series.items()}
    found = Results(
        rows=[
            *(each.row(work.name) for each in series.values()),
            *(Row(work=f"{work.name}, a round", system=name, seconds=took) for name, took in by_round.items()),
        ]
    )
    beyond = [1e3 * (ours - its) / work.cohort for ours, its in zip(by_round["fedsag"], by_round["floor"], strict=True)]
    value = statistics.median(beyond)
    found.targets.append(Target(work=work.name, says="ms a client beyond the floor's", value=value, limit=0.6))
    held = {}
    for count in (1000, work.clients):
        system = systems.fedsag_crowd(settings.folder / f"memory of {count}", replace(work, clients=count, rounds=5))
        held[count] = held_by_name(system, system.run(sample=True))
    found.rows += [
        Row(work=f"{work.name}, memory", system=f"{name} of {count} clients", seconds=[each], unit="MB")
        for count, by_name in held.items()
        for name, each in by_name.items()
    ]
    if all(held.values()):
        few, many = (sum(by_name.values()) for by_name in held.values())
        more = (many - few) / (work.clients - 1000)
        found.targets.append(Target(work=work.name, says="bytes that one more client holds", value=more, limit=1000))
    return found


def crowd(work: Work, settings: Settings, *, look: bool = True) -> dict[str, Series]:
    """Few workers train the cohorts of many clients, as each system does it; the models agree."""
    folder = settings.folder / work.name
    ours = systems.fedsag_crowd(folder / "fedsag", work)
    contestants = [
        ours,
        systems.crowd(folder / "floor", work, ours),
        *installed(
            settings,
            *(functools.partial(systems.pfl, folder / f"pfl{n}", work, ours, processes=n) for n in (1, 2)),
            functools.partial(systems.flower, folder / "flower", work, ours),
        ),
    ]
    return _alternate(contestants, settings, look=look, check=lambda: agree(contestants))


def held_by_name(system: System, took: Took) -> dict[str, float]:
    """Bytes of each process, shared ones by parts: the median of the second half of its life. Empty if nobody can look.

    `command`: the process that was run. `nursery`: one of which no event tells.
    """
    names = {event["pid"]: event["name"] for event in system.events() if event["event"] == "ProcessStarted"}
    names[took.pid] = "command"
    history = took.memory.history if took.memory else {}
    return {
        names.get(pid, "nursery"): statistics.median(each.total for each in held[len(held) // 2 :])
        for pid, held in history.items()
    }


def w8_sweep(settings: Settings) -> Results:
    """Thirty runs of about a second: one sweep, the trainings alone, and a loop of six commands. Each is done once."""
    work = Work(name="W8 sweep", clients=2, slots=2, rounds=6, pictures=600)
    return sweep(work, 30, replace(settings, runs=1), in_loop=6)


def sweep(work: Work, runs: int, settings: Settings, *, in_loop: int) -> Results:
    """So many seeds of one training. The trainings alone are forked by a process with torch, without a server.

    The loop of commands has `in_loop` of the seeds. Compared is what a run takes: the time of all, by their number.
    """
    folder = settings.folder / work.name
    loop = systems.fedsag_in_bash(folder / "loop", work, in_loop)
    contestants = [
        systems.fedsag_sweep(folder / "sweep", work, runs),
        systems.nursery(folder / "nursery", replace(work, clients=runs * work.clients)),
        loop,
    ]
    series = _alternate(contestants, settings, look=False)
    for name, each in series.items():
        each.took = [took.divided(in_loop if name == loop.name else runs) for took in each.took]
    found = _held_against(replace(work, name=f"{work.name}, a run"), series, {"bare nursery": 1.15, loop.name: 2.0})
    found.rows += [
        Row(work=f"{work.name}, its CPU time", system=name, seconds=[took.cpu_s for took in each.took])
        for name, each in series.items()
    ]
    return found


def long_run(settings: Settings) -> Results:
    """A thousand idle rounds: nothing grows."""
    work = "long run"
    counts = ["num_rounds=1000", "min_clients=2"]
    job = Job(template="sag_np", clients=2, slots=2, server=counts, code=None)
    system = systems.fedsag(settings.folder / work, job)
    took = system.run(sample=True)
    rounds = system.round_seconds()
    found = Results(rows=[Row(work=work, system="fedsag", seconds=[took.seconds])])
    ratio = statistics.median(rounds[-200:]) / statistics.median(rounds[1:201])
    found.targets.append(Target(work=work, says="the last 200 rounds / the first 200", value=ratio, limit=1.2))
    for name, held in _by_name(system, took).items():
        early, late = held[len(held) // 4 : len(held) // 2], held[3 * len(held) // 4 :]
        more = statistics.median(h.private for h in late) - statistics.median(h.private for h in early)
        found.targets.append(Target(work=work, says=f"private MB that {name} gained", value=more / 1e6, limit=1.0))
        # the fewest of each: within a round some are open for a moment, and a median of them moves by chance
        files = min(h.descriptors for h in late) - min(h.descriptors for h in early)
        found.targets.append(Target(work=work, says=f"descriptors that {name} gained", value=files, limit=0))
    return found


def command_line(settings: Settings) -> Results:
    """What the small commands cost, and what a train.py pays for the Client API."""
    work, folder = "commands", settings.folder
    imports_client = "import torch, time; t = time.time(); import fedsag_cli.client; print(time.time() - t)"
    contestants = [
        System(name="fedsag --version", command=[FEDSAG, "--version"], folder=folder),
        System(name="import typer", command=[sys.executable, "-c", "import typer"], folder=folder),
        System(name="fedsag job list_templates", command=[FEDSAG, "job", "list_templates"], folder=folder),
        System(name="import torch, then ours", command=[sys.executable, "-c", imports_client], folder=folder),
    ]
    version, typer, templates, client = _alternate(contestants, settings, look=False).values()
    ratio = ratio_of(version.seconds, typer.seconds)
    cpu_s = statistics.median(each.cpu_s for each in templates.took)
    beyond = 1e3 * statistics.median(float(each.out) for each in client.took)
    return Results(
        rows=[each.row(work) for each in (version, typer, templates)],
        targets=[
            Target(work=work, says="--version / import typer", value=ratio, limit=1.3),
            Target(work=work, says="CPU seconds of list_templates", value=cpu_s, limit=0.35),
            Target(work=work, says="ms of the Client API beyond torch", value=beyond, limit=20.0),
        ],
    )


def failures(settings: Settings) -> Results:
    """What goes wrong on purpose: how long until the run tells it, and until the command has ended."""
    work = "faults"
    prepared = {
        fault: faults.prepare(settings.folder / fault.says, fault)
        for fault in (*faults.ENDS, faults.HANGS, *faults.KILLED)
    }
    took: dict[tuple[Fault, str], list[float]] = {}
    for number in range(1, settings.slow_runs + 1):
        for fault, system in prepared.items():
            print(f"  {fault.says}, run {number}", file=sys.stderr)
            for until, seconds in faults.commit(fault, system).items():
                took.setdefault((fault, until), []).append(seconds)

    def worst_ms(kinds: Sequence[Fault], until: str) -> float:
        return 1e3 * max(statistics.median(took[kind, until]) for kind in kinds)

    dies, hangs = worst_ms(faults.ENDS, faults.TOLD), worst_ms([faults.HANGS], faults.TOLD)
    killed = worst_ms(faults.KILLED, faults.TO_PROMPT)
    return Results(
        rows=[
            Row(work=work, system=f"{fault.says}, {until}", seconds=seconds, unit="ms")
            for (fault, until), seconds in took.items()
        ],
        targets=[
            Target(work=work, says="ms from a client's death to ReplyFailed", value=dies, limit=100.0),
            Target(work=work, says="ms from train_timeout to ReplyFailed", value=hangs, limit=100.0),
            Target(work=work, says="ms from the server's or nursery's death to the prompt", value=killed, limit=500.0),
        ],
    )


SECTIONS: dict[str, Callable[[Settings], Results]] = {
    "W0": w0_numpy,
    "W1": w1_seed,
    "W2": w2_many,
    "W3": w3_idle,
    "W4": w4_big,
    "W5": w5_waiting,
    "W6": w6_crowd,
    "W7": w7_population,
    "W8": w8_sweep,
    "long": long_run,
    "commands": command_line,
    "faults": failures,
}


def _training(work: Work, settings: Settings) -> dict[str, Series]:
    """The same training by every system, and proof that it was the same: the models agree."""
    folder = settings.folder
    contestants = [
        systems.fedsag_training(folder / "fedsag", work),
        systems.loop(folder / "loop", work),
        systems.nursery(folder / "nursery", work),
    ]
    contestants += installed(
        settings,
        *(functools.partial(systems.nvflare, folder, work, tuned=tuned) for tuned in (False, True)),
        functools.partial(systems.flower, folder / "flower", work, contestants[0]),
    )
    return _alternate(contestants, settings, look=work.clients == 2, check=lambda: agree(contestants))


def installed(settings: Settings, *makers: Callable[[], System]) -> list[System]:
    """The peers, if they are wanted. One that cannot be installed is told and left out."""
    made = []
    for make in makers if settings.peers else ():
        try:
            made.append(make())
        except NotInstalled as failure:
            print(f"  {failure}", file=sys.stderr)
            settings.left_out.append(str(failure).partition("\n")[0])
    return made


def _held_against(work: Work, series: dict[str, Series], limits: dict[str, float]) -> Results:
    """A limit below 2 is the most fedsag may take of that system's time; above, how many times faster it should be."""
    found = Results(rows=[each.row(work.name) for each in series.values()])
    ours = series["fedsag"].seconds
    for name, limit in limits.items():
        if name in series and limit < 2:
            ratio = ratio_of(ours, series[name].seconds)
            found.targets.append(Target(work=work.name, says=f"fedsag / {name}", value=ratio, limit=limit))
        elif name in series:
            ratio = ratio_of(series[name].seconds, ours)
            found.targets.append(Target(work=work.name, says=f"{name} / fedsag", value=ratio, limit=limit, least=True))
    return found


def _alternate(
    contestants: Sequence[System], settings: Settings, *, look: bool = True, check: Callable[[], None] = lambda: None
) -> dict[str, Series]:
    """Run them in turn, again and again, so that what slows the machine down for a while slows all of them.

    `look`: before that, at what fedsag holds; with peers, at what each of them does. `check` after the first runs.
    """
    series = {contestant.name: Series(contestant) for contestant in contestants}
    for each in series.values():
        if look and (settings.peers or each.system.name == "fedsag"):
            print(f"  {each.system.name}, its memory", file=sys.stderr)
            each.peak = _peak(each.system.run(sample=True))
    for number in range(1, settings.runs + 1):
        for name, each in series.items():
            if number == 1 or number <= settings.slow_runs or each.seconds[0] < _SLOW_S:
                print(f"  {name}, run {number}", file=sys.stderr)
                each.took.append(each.system.run())
                each.rounds.append(each.system.round_seconds())
        if number == 1:
            check()
    return series


def agree(contestants: Sequence[System]) -> None:
    """Raises Failed where two final models differ by more than what rounding grows to in some hundred steps."""
    import torch

    models = {}
    for each in contestants:
        if each.model and not each.model.exists():
            raise Failed(f"{each.name} ended well and left no model {each.model}")
        if each.model:
            models[each.name] = torch.load(each.model, weights_only=True)["model"]
    first, *others = models
    for name in others:
        for key, value in models[first].items():
            its = models[name].get(key)
            if its is None or not torch.allclose(torch.as_tensor(its), torch.as_tensor(value), rtol=0.0, atol=1e-3):
                raise Failed(f"{name} ends with another model than {first}: {key} differs")


def _big(settings: Settings, *, clients: int, rounds: int, delay_s: int) -> System:
    """256 MB to so many clients; site-1 answers only after `delay_s` seconds."""
    job = Job(
        template="sag_pt",
        clients=clients,
        slots=2,
        server=[f"num_rounds={rounds}", f"min_clients={clients}", "model_class_path=net.Big"],
        client=["app_script=big.py", f"app_config={delay_s}", "params_transfer_type=FULL"],
    )
    return systems.fedsag(settings.folder / f"W4 big {clients} {delay_s}", job)


def _python(settings: Settings, modules: str) -> System:
    return System(name="its imports", command=[sys.executable, "-c", f"import {modules}"], folder=settings.folder)


def _floor(settings: Settings, *words: str) -> Took:
    return measure.run(systems.floor(*words), folder=settings.folder)


def _peak(took: Took) -> int | None:
    return took.memory.peak if took.memory else None


def _by_name(system: System, took: Took) -> dict[str, Sequence[Held]]:
    """What server and clients held in the last run, by name, in the order of time; empty where nobody can look."""
    history = took.memory.history if took.memory else {}
    started = [event for event in system.events() if event["event"] == "ProcessStarted"]
    return {event["name"]: history[event["pid"]] for event in started if event["pid"] in history}


def _stages(series: Series) -> list[tuple[str, float]]:
    """What the events of the last run say of where its seconds went."""
    took, events = series.took[-1], series.system.events()

    def first(kind: str) -> float:
        return next(event["at"] for event in events if event["event"] == kind)

    def last(kind: str) -> float:
        return next(event["at"] for event in reversed(events) if event["event"] == kind)

    finished = [event for event in events if event["event"] == "RoundFinished"]
    moments = [
        ("the command reads the job", first("RunStarted") - took.began),
        ("torch is imported, the server is up", first("ServerReady") - first("RunStarted")),
        ("the clients' scripts start", last("ClientReady") - first("ServerReady")),
        (
            "the clients train",
            sum(event["wait_s"] for event in finished) - (last("ClientReady") - first("ServerReady")),
        ),
        ("updates are folded, checkpoints written", sum(event["aggregate_s"] + event["save_s"] for event in finished)),
        ("the last model is written, all end", took.ended - last("RoundFinished")),
    ]
    return [*moments, ("all", took.seconds)]
