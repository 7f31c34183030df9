"""What a run records: run.json, its predictions, its parts, the settings that two runs share."""
