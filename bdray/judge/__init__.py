"""Judge: what a model is worth, measured with what no defender has, and with what one could have."""
