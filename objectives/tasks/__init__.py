"""From rows to model inputs, with one module for each kind of data."""
