"""What all parts stand on: errors, configuration, files, caches."""
