"""The order service: every accepted order reaches a final state, whatever crashes."""
