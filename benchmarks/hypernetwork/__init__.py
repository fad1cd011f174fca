"""A tiny hypernetwork, trained on the demo's base: that the whole way to a merge by `zett` works."""
