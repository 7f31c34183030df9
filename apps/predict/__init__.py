"""Pictures, folders and videos shown to exported models."""
