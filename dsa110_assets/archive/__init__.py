"""The archive of products: publishing, index, provenance, integrity, retention, backup."""
