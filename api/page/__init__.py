"""The operators' web page at /admin. NiceGUI is loaded by the first visitor who is let in, not by the start."""
