"""The twin of the C kernel in NumPy: the same bits, from the same operations in the same order."""
