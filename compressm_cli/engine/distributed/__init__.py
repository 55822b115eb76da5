"""Several processes that train one model: as torchrun starts them, each with a copy or a part of it."""
