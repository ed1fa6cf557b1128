"""A local page on which people mark the first wrong step of completions."""
