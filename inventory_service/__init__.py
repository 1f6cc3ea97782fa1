"""The inventory service: stock that never goes below zero, and a ledger row for every change of it."""
