"""A text that comes with Python: the topics of its documentation. Each site has one topic, the longest ones first."""

import re
from pydoc_data.topics import topics

import torch


def of_site(site, block):
    """(topic, trainset, testset) of a site: blocks of bytes. Every tenth block is for the test.

    The number at the end of the site's name tells which topic it gets.
    """
    number = re.search(r"\d+$", site)
    longest = sorted(topics, key=lambda name: (-len(topics[name]), name))
    topic = longest[(int(number[0]) - 1 if number else 0) % len(longest)]
    data = torch.tensor(list(topics[topic].encode()), dtype=torch.long)
    blocks = [{"input_ids": each, "labels": each} for each in data.split(block) if len(each) == block]
    return topic, [each for i, each in enumerate(blocks) if i % 10], blocks[::10]
