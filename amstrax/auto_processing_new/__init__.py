"""Scripts for the lab's dashboard and start scripts of 2026, based on amstrax.auto_processing."""
