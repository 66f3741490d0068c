"""Tests of the error model and what is made of it."""
