"""What Postgres keeps of every run: migrations, the recorder, projections and reads."""
