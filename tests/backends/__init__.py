"""Tests of what answers a hop."""
