"""Depth of every pixel, and the clouds fused from it."""
