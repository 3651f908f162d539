"""Programs over ``lse_stream``: ``python -m pipelines`` from a checkout, ``lse-stream`` from the wheel."""
