"""Receipts of purges over HTTP and on the command line."""
