"""What a head costs: parameters, operations, memory, time."""
