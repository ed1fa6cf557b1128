"""`pairwright publish`: releases and models as versions on the Hugging Face Hub."""
