"""Files to a manifest, pixels and batches."""
