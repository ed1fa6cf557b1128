"""What `builders.report` measures, draws and writes."""
