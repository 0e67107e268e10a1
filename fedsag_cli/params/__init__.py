"""Parameters of models: their arithmetic, their checks, and the files in which they are sent and stored."""
