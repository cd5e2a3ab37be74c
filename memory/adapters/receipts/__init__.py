"""Who signs receipts."""
