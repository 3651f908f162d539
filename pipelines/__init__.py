"""Programs over ``lse_stream``: ``python -m pipelines`` from a checkout, ``lse-stream`` from the wheel."""

import logging

# Beam says this at import, of cloud clients that no program here needs.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
