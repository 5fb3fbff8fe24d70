"""Error rates, coverage and power of the statistics, measured on simulated experiments: `make simulate`."""
