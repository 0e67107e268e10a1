"""Communication between processes: typed messages, and the channel that sends and receives them."""
