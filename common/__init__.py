"""What the three services share: the kit (web, database, telemetry), the contracts and the clients."""
