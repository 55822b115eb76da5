"""The only code that changes shapes, masks, what is trained, and optimizer state."""
