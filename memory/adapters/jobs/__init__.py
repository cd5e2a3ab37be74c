"""Carriers of jobs."""
