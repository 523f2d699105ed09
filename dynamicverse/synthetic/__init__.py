"""Rendered clips with exact truth: cameras, depth, masks, flow, tracks and object poses.

`scenes` makes worlds (surfaces, motions, cameras), `render` their pictures, `truth` flow and
tracks, `writer` files. World frame: x right, y down, z forward, metres.
"""
