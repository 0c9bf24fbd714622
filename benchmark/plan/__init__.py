"""From a sweep file to checked cells, before anything runs."""
