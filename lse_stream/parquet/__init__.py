"""Parquet files: found and checked before any work, read as tables of bounded size, written whole."""
