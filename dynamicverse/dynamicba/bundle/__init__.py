"""The solver: robust bundle adjustment with points eliminated."""
