"""dynamicBA: cameras, static structure, moving points and dense depth of a clip from its tracks.

    bundle/    the solver: Levenberg–Marquardt with points eliminated, covariances
    cameras/   from tracks to registered cameras and a static map
    motion/    which tracks move, and the moving objects in the scale of the scene
    dense/     depth of every pixel, from a plane sweep or a prior, and fused clouds
    assemble   all of it, frame after frame, as the files of a scene

Each uses only what stands above it in this list; beside them are the threads they share.
"""
