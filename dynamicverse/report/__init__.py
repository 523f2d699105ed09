"""The HTML report: one self-contained page a scene, one index page a dataset."""
