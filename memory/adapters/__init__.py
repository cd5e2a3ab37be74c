"""The technologies behind the ports, one folder per kind of port."""
