"""The pictures of the notebook: MPI's scatter and gather, one round of FedAvg, and rounds of scatter-and-gather."""

from __future__ import annotations

from collections.abc import Callable

from drawing.svg import Picture

_PARTS = "abcd"
_SITES = (("site-1", "a"), ("site-2", "b"), ("site-3", "c"))


def mpi_scatter() -> Picture:
    picture = Picture(350, 220, "MPI scatter: one process holds an array and sends each process another part of it")
    _array(picture, 34, "process 0 has the array")
    for index, x in enumerate(_columns()):
        picture.arrow(175 + 40 * (index - 1.5), 92, x, 138)
        picture.cell(x, 144, _PARTS[index], _PARTS[index])
        picture.text(x, 200, f"process {index}", "soft")
    return picture


def mpi_gather() -> Picture:
    picture = Picture(350, 220, "MPI gather: one process collects a part from every process and puts them together")
    _array(picture, 34, "process 0 gets the array")
    for index, x in enumerate(_columns()):
        picture.arrow(x, 140, 175 + 40 * (index - 1.5), 94)
        picture.cell(x, 144, _PARTS[index], _PARTS[index])
        picture.text(x, 200, f"process {index}", "soft")
    return picture


def fedavg_round() -> Picture:
    picture = Picture(680, 390, "One round of FedAvg: send the model, train it at each site, send it back, average")
    picture.box(30, 24, 620, 84)
    picture.text(340, 46, "server", "strong")
    picture.text(340, 71, "w ← (n_1 w_1 + n_2 w_2 + n_3 w_3) / (n_1 + n_2 + n_3)", "math")
    picture.text(340, 96, "4. average the results, weighted by training steps", "soft")
    for number, (site, kind) in enumerate(_SITES, 1):
        x = 120 + 220 * (number - 1)
        picture.arrow(x - 40, 110, x - 40, 204)
        picture.text(x - 56, 162, "w", "math")
        picture.arrow(x + 20, 204, x + 20, 110)
        picture.text(x + 52, 162, f"w_{number}, n_{number}", "math")
        picture.box(x - 90, 206, 180, 84)
        picture.text(x, 229, site, "strong")
        picture.text(x, 254, f"w → w_{number}", "math")
        picture.text(x, 278, f"in n_{number} training steps", "soft")
        for layer in range(3):
            picture.box(x - 64 + 6 * layer, 304 + 6 * layer, 116, 30, kind, radius=3)
        picture.text(x + 6, 336, "its own data", "on")
    picture.text(87, 130, "1. send", "soft left")
    picture.text(147, 192, "3. send back", "soft left")
    picture.text(340, 374, "2. every site trains on its own data, which never leaves it", "soft")
    return picture


def scatter_and_gather() -> Picture:
    """Time goes to the right. A round ends with its slowest site."""
    picture = Picture(800, 330, "Scatter and gather: in every round the server sends, the sites train, it gathers")
    rows = {"server": 92, "site-1": 156, "site-2": 212, "site-3": 268}
    for name, y in rows.items():
        picture.text(20, y + 5, name, "left strong")
        picture.line(84, y, 784, y, "wait")
    begins = 100.0
    for round_num, lengths in enumerate(((76, 112, 94), (108, 70, 90), (86, 98, 74))):  # how long each site trains
        averages = begins + 24 + max(lengths) + 16
        ends = averages + 68
        picture.text((begins + ends) / 2, 34, f"round {round_num}", "strong")
        picture.line(begins, 46, ends, 46)
        for (site, _), length in zip(_SITES, lengths, strict=True):
            picture.arrow(begins, rows["server"], begins + 24, rows[site] - 16)
            picture.arrow(begins + 24 + length - 4, rows[site] - 14, begins + 24 + length + 8, rows["server"] + 2)
        for (site, kind), length in zip(_SITES, lengths, strict=True):
            picture.box(begins + 24, rows[site] - 14, length, 28, kind, radius=4)
            picture.text(begins + 24 + length / 2, rows[site] + 5, "train", "on")
        picture.box(averages, rows["server"] - 14, 68, 28)
        picture.text(averages + 34, rows["server"] + 5, "average")
        begins = ends + 14
    picture.text(20, 314, "dotted: waiting, here for the slowest site", "soft left")
    picture.text(784, 314, "time →", "soft right")
    return picture


def _array(picture: Picture, y: float, caption: str) -> None:
    picture.text(175, y - 8, caption, "strong")
    for index, part in enumerate(_PARTS):
        picture.cell(175 + 40 * (index - 1.5), y + 14, part, part)


def _columns() -> list[float]:
    return [175 + 84 * (index - 1.5) for index in range(len(_PARTS))]


PICTURES: dict[str, Callable[[], Picture]] = {
    each.__name__: each for each in (mpi_scatter, mpi_gather, fedavg_round, scatter_and_gather)
}
