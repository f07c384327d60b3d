"""Tests of `spyder.model`: names, records, outcomes."""
