"""Other systems' jobs and scripts. What translates a job keeps the contract `job.Translate`."""
