"""Scene curation and the data filter: what goes into a dataset, cut into shots and scored."""
