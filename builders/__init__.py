"""The data stages: one module per stage, named as its section of `params.yaml`."""
