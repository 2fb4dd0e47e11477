"""Measures: one file each. A measure is a frozen dataclass whose fields are its options; see :mod:`simkit.estimators.base`."""
