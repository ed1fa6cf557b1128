"""Texts that are alike: normalised words, MinHash sketches, near-duplicates, shared n-grams: functions of arrays."""
