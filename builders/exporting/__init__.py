"""Data set releases: rows joined with their texts, in the layout of the Hugging Face Hub, with card and provenance."""
