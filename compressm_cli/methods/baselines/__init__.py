"""Methods to compare with: what a score is worth is what it wins over them at the same schedule."""
