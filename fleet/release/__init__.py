"""Bundles to signed releases: chunks, keys, TUF documents. Never imported by the edge."""
