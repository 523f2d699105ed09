"""Results against truth, by named protocols: cameras, depth, masks, tracks, flow.

Numbers of different protocols must not be compared; every result carries the protocol's name.
"""
