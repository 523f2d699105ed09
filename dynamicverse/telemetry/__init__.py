"""Figures for Prometheus: of runs, from their ledgers, and of single pods while they live."""
