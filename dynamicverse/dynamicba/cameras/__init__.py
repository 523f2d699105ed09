"""From tracks to registered cameras and a static map."""
