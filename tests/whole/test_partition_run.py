"""A run whose clients divide one data set."""

import numpy as np
import pytest
from runs import job

from fedsag_cli.client.partitioning import part_of
from fedsag_cli.client.place import Site
from fedsag_cli.simulator import simulate
from fedsag_cli.simulator.options import Options

pytestmark = pytest.mark.slow

SITES, SEED = ("site-1", "site-2", "site-3"), 7
LABELS = np.arange(100) % 10
SCRIPT = """
    import numpy as np
    import fedsag_cli.client as flare

    labels = np.arange(100) % 10
    flare.init()
    while flare.is_running():
        model = flare.receive()
        mine, site = flare.partition(labels, "dirichlet", alpha=1.0), flare.site()
        params = {name: value + mine.sum() for name, value in model.params.items()}
        told = {"index": site.index, "count": site.count, "sum": mine.sum()}
        meta = {"NUM_SAMPLES": 5} if site.name == "site-2" else {}
        flare.send(flare.FLModel(params=params, metrics=told, meta=meta))
"""


def test_clients_and_workers_have_the_same_parts_and_the_run_says_once_how_many_samples(tmp_path):
    """What a script says in meta counts more; the digest does not depend on it, as the model has the sums."""
    made = job(tmp_path / "job", SCRIPT)
    options = {"num_clients": 3, "seed": SEED}
    places = [Site(index=index, count=3, name=name) for index, name in enumerate(SITES)]
    parts = {site.name: part_of(site, LABELS, "dirichlet", alpha=1.0, seed=SEED) for site in places}

    one = simulate(made, tmp_path / "one", Options(slots=2, **options))
    two = simulate(made, tmp_path / "two", Options(slots=1, workers=True, **options))

    for report in (one, two):
        for each in report.rounds:
            assert each.metrics_by_site == {
                site.name: {"index": site.index, "count": 3.0, "sum": float(parts[site.name].sum())} for site in places
            }
        assert report.samples == {name: len(part) for name, part in parts.items()} | {"site-2": 5}
        said = [text for text in report.notices if text.startswith("samples: ")]
        assert said == [f"samples: site-1 {len(parts['site-1'])}, site-2 5, site-3 {len(parts['site-3'])}"]
    assert one.digest == two.digest
