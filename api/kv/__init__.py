"""The KV of sessions over HTTP."""
