"""The language between services: what goes over the wire, used by handlers and clients alike."""
