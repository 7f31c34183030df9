"""One experiment, whatever the task: its record, predictions, comparison and study."""
