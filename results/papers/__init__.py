"""Published tables, and measured results compared with them."""
