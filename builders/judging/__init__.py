"""A model judges which step of a solution is the first wrong one."""
