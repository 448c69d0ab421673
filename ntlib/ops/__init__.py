"""The book's recurrences as pure functions on tensors: no modules, no configuration, no hidden
state."""
