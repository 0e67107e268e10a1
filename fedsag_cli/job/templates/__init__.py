"""Templates, and jobs made from them."""
