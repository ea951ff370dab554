"""The dashboard: pages that only read, and a webhook that only says "look now"."""
