"""What everything rests on: typed settings, errors, the registry, versioned files."""
