"""From rows to model inputs, one module a kind of data."""
