"""NVFLARE's jobs and scripts: read, run and written."""
