"""Watch: how far a launch is, on the terminal and as gauges for Prometheus."""
