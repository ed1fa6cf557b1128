"""Training: one visible loop per method, on torch and transformers alone."""
