"""What a finished age result shows: its report, its figures and the facts of its card."""
