"""One job, two systems: fedsag runs it, NVFLARE runs what `fedsag job export` wrote, and the models are compared."""
