"""Celery in, memory out: jobs carry ids, call a service, and are done."""
