"""What a run needs to survive and to be seen: checkpoints, schedules, caches, probes, throughput."""
