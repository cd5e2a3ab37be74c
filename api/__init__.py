"""HTTP in, memory out: one folder a resource, each with `endpoints.py` and `schemas.py`."""
