"""The `vlpeft` command."""
