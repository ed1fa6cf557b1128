"""Where tables live, how they are written and read, the ledger, and the store that answers SQL."""
