"""The server process: it runs the workflows, and is the only process that exchanges messages with the clients."""
