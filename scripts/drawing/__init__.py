"""The project's pictures: `tutorial` draws those of the notebook, `terminal` the one of README, both as SVG."""
