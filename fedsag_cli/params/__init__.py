"""Parameters: their arithmetic, the checks of what arrives, and the files in which they travel and are saved."""
