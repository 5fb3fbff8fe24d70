"""What the gateway costs: added latency, throughput and transit of streams, beside other gateways."""
