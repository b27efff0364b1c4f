"""What operators of the update server need: readiness, metrics, a record of requests."""
