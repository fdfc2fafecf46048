"""Real Postgres, Redis and Kafka in unittest test cases."""
