"""NVFLARE: reads its jobs, runs its scripts, and exports jobs for it."""
