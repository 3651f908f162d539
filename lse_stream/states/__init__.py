"""States: what they are made of (``aggregations``), arrays of them, their results, and their bytes (``codec``)."""
