"""Feature extractors: images in, one row of float32 features per image out; see :mod:`simkit.extractors.base`."""
