"""From notebooks to the book: execute them, know whether their outputs are fresh, render the pages."""
