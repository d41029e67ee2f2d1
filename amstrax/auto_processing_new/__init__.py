"""Scripts for the lab's dashboard and start scripts of 2026, on the tools of auto_processing."""
