"""What policies are worth: a workload on a slow origin, beside the cache-aside that teams write by hand."""
