"""The learner's own hand and voice become images like those of the data sets."""
