"""What a run costs: FLOPs are counted, joules, memory and time are measured; the two are never mixed."""
