"""What lies in a run folder, and the rules of writing there."""
