"""How processes start and end: the contract of an engine, processes on this machine, the nursery that forks them."""
