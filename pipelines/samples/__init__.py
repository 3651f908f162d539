"""The samples, and the scripts that made them."""
