"""The server process: it runs the workflows, and alone talks to the clients."""
