"""Where products live: publishing, index, provenance, integrity, retention, backup."""
