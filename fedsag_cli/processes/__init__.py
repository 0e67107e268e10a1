"""How processes start and end: the contract of an engine, the engine for this machine, and the nursery that forks."""
