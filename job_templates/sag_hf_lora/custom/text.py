"""A text that comes with Python: the topics of its documentation. Each site has one topic, the longest ones first."""

from pydoc_data.topics import topics

import torch


def of_site(index, block):
    """(topic, trainset, testset) of the site with this index: blocks of bytes. Every tenth block is for the test."""
    longest = sorted(topics, key=lambda name: (-len(topics[name]), name))
    topic = longest[index % len(longest)]
    data = torch.tensor(list(topics[topic].encode()), dtype=torch.long)
    blocks = [{"input_ids": each, "labels": each} for each in data.split(block) if len(each) == block]
    return topic, [each for i, each in enumerate(blocks) if i % 10], blocks[::10]
