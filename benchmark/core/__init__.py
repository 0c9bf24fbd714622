"""The foundation of all rooms: typed settings, errors, the registry, versioned files."""
