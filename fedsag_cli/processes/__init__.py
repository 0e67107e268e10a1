"""Starts and ends processes: the contract of an engine, the engine for this machine, and the nursery, which forks."""
