"""Parts that every algorithm shares."""
