"""Hand-written forward and backward passes that several methods share."""
