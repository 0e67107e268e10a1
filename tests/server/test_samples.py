"""How many samples each site has, said once."""

from fedsag_cli.events import Notice, ReplyAccepted, RoundFinished
from fedsag_cli.server.samples import Samples, described


def accepted(site, num_samples):
    facts = {"task": "train", "round_num": 0, "metrics": {}, "num_steps": 1.0, "size": 0, "work_s": 0.1}
    return ReplyAccepted(site=site, num_samples=num_samples, **facts)


def finished():
    return RoundFinished(round_num=0, sites=[], metrics={}, wait_s=0.0, aggregate_s=0.0, save_s=0.0)


def told_after(*events):
    told = []
    samples = Samples(told.append)
    for event in events:
        samples.on(event)
    assert all(isinstance(event, Notice) for event in told)
    return [event.text for event in told]


def test_they_are_told_at_the_end_of_the_first_round_and_not_again():
    first = [accepted("site-1", 1200), accepted("site-2", 380), finished()]

    assert told_after(*first) == ["samples: site-1 1,200, site-2 380"]
    assert told_after(*first, *first) == ["samples: site-1 1,200, site-2 380"]
    assert told_after(*first[:2]) == []


def test_a_site_that_tells_none_is_left_out_and_if_none_tells_nothing_is_said():
    assert told_after(accepted("site-1", 0), accepted("site-2", None), finished()) == ["samples: site-1 0"]
    assert told_after(accepted("site-1", None), finished()) == []


def test_of_many_sites_the_fewest_and_the_most_are_told():
    assert described({f"site-{number}": 10 + number for number in range(100)}) == (
        "10 to 109 at each of 100 sites, 5,950 in all"
    )
    assert described(dict.fromkeys("abcdef", 600)) == "600 at each of 6 sites, 3,600 in all"
