"""Job templates: finds them, and creates jobs from them."""
