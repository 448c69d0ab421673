"""From notebooks to the book: execute, tell whether outputs are fresh, render."""
