"""Refinement of a selection against the true metric: the loop, its proposers and their rivals."""
