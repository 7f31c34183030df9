"""How weights are updated: optimisers, number formats, processes, stages."""
