"""Tests of `spyder.intake`: what is read from files and queues."""
