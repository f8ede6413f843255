"""Filter groups, keep masks and compaction: the pure core."""
