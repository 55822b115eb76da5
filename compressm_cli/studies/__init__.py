"""What a method wins over its alternatives: arms, each at its own learning rate, and what came of them."""
