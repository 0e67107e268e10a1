"""What travels between processes: typed messages, and the channel that carries them."""
