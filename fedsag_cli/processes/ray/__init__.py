"""The engine for several machines: Ray starts an agent on each node, and the agent is to its node what we are to ours.

Only the processes that `driver` and `node` run in import ray; the command's own does not.
"""
