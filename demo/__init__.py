"""The demo: a small reasoning model of the project's own, and the traffic that shows what it is for."""
