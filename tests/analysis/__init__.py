"""Tests of the analysis of stored traces."""
