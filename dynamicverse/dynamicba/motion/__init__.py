"""Moving objects: which tracks move, and where their points are."""
