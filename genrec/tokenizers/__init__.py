"""Items to identifiers."""
