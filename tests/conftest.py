"""Puts this folder on the import path: helpers that tests of several packages share lie here."""
